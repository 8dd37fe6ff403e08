"""The page and its figures, from folders that the tests write."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import write_dataset, write_run

from igam_d2.report import drawing
from igam_d2.report.build_report import write_report
from igam_d2.report.style import coefficient, signed
from igam_d2.report.tables import metrics_text

ROOT = Path(__file__).parents[2]
NAMES = ["<b>bold & $x$</b>", "a_very_long_name_of_a_class_that_goes_on", *"cdefghij"]
FIGURES = {
    "ap_by_group", "ap_correlation", "information_history", "margins_one", "model_bias", "tide",
    "learning_curves", "class_ap", "detections_1", "detections_2", "detections_3", "detections_4",
    "rare_1", "confusion_one", "confusion_two",
}  # fmt: skip


class Page(HTMLParser):
    """What a page holds: its tags must match."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.ids, self.rows, self.cell = [], [], [], [], None
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[key] for key in ("src", "href") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "PNG_DPI", 40)
        yield


def report(folders, output, **kwargs):
    """The text of the page, and what was logged."""
    log = []
    path, _ = write_report(folders, output, log=log.append, **kwargs)
    assert path == Path(output) / "report.html"
    return path.read_text(encoding="utf-8"), log


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    dataset = write_dataset(root / "data", names=NAMES)
    one = write_run(root / "one", dataset, skill=0.8, seed=1)
    two = write_run(root / "two", dataset, skill=0.5, seed=2, margins=False)
    old = root / "old"
    (old / "inference/synthetic_val").mkdir(parents=True)
    (old / "inference/synthetic_val/results.json").write_text('{"classes": [{"frequ')
    text, log = report([one, old, two], root / "out")
    return root, text, log


def test_the_page_needs_nothing_else(two_runs):
    _, text, _ = two_runs
    page = Page(text)
    assert "http://" not in text and "https://" not in text and "url(http" not in text
    for link in page.links:
        assert link.startswith(("#", "data:image/"))
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links if link.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets and targets <= set(page.ids)
    assert text.count("data:image/jpeg") >= 5  # four images and a crop of each rare class
    assert "var(--ink)" in text and "prefers-color-scheme: dark" in text and "@media print" in text
    drawings = re.findall(
        r"<figure[^>]*>\s*(?:<figcaption>[^<]+</figcaption>)?\s*<svg [^>]*>", text
    )
    assert len(drawings) == len(FIGURES)
    assert all('tabindex="0"' in opening for opening in drawings)  # it scrolls where it is narrow
    for opening in drawings:
        assert 'role="img"' in opening and len(re.search('aria-label="([^"]+)"', opening)[1]) > 20
    body = text[text.index("<figure") : text.rindex("</figure>")]
    assert "#1f2933" not in body and "#ffffff" not in body  # ink and ground follow the theme
    assert len(text) < 4e6


def test_every_figure_is_a_file(two_runs):
    root, _, _ = two_runs
    folder = root / "out" / "figures"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")
    }
    for name in FIGURES:
        with Image.open(folder / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 40
        assert 0.01 < (pixels.min(axis=1) < 250).mean() < 0.97
        svg = (folder / f"{name}.svg").read_text()
        assert "var(" not in svg and "#1f2933" in svg and len(svg) > 5000


def test_names_are_escaped(two_runs):
    _, text, _ = two_runs
    assert "<b>" not in text
    assert "&lt;b&gt;bold &amp; $x$&lt;/b&gt;" in text
    cells = [row[0] for row in Page(text).rows]
    assert NAMES[0] in cells and NAMES[1] in cells


def test_tables(two_runs):
    root, text, _ = two_runs
    one, two = (
        json.loads((root / name / "inference/synthetic_val/results.json").read_text())
        for name in ("one", "two")
    )
    rows = [[cell.replace("\u2212", "-") for cell in row] for row in Page(text).rows]
    head = next(row for row in rows if row[0] == "run")
    row = next(row for row in rows if row[0] == "two")
    for name, cell in list(zip(head, row, strict=True))[1:]:
        a, b = one["metrics"]["bbox"][name.strip()], two["metrics"]["bbox"][name.strip()]
        if b is None:
            assert cell.split() == ["\u2013"]
            continue
        value, change = cell.split()
        assert value == f"{b:.1f}" and change == f"{b - a:+.1f}"
    classes = {row[0]: row for row in rows if len(row) == 10}
    for record, other in zip(one["classes"], two["classes"], strict=True):
        cells = classes[record["name"]]
        assert cells[3] == f"{record['instance_count']:,}"
        assert cells[5] == f"{record['information']:.1f}"
        a, b = record["AP"]["bbox"], other["AP"]["bbox"]
        if a is None:
            assert cells[7:] == ["\u2013"] * 3
        else:
            assert cells[7:] == [f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}"]


def test_numbers_as_text():
    assert [signed(v) for v in (1.25, -0.04, 0.0, -2)] == ["+1.2", "0.0", "0.0", "\u22122.0"]
    values = [-0.5234, 0.07, 1.0, -1.0, None, -0.004, -0.996]
    expected = ["\u2212.52", ".07", "1.00", "\u22121.00", "\u2013", ".00", "\u22121.00"]
    assert [coefficient(v) for v in values] == expected


def test_what_could_not_be_read_is_said(two_runs):
    _, text, log = two_runs
    (problem,) = [line for line in log if "old" in line]
    assert "whole JSON" in problem
    box = text[text.index('<div class="problems"') :]
    assert (
        "old/inference/synthetic_val/results.json is not whole JSON" in box[: box.index("</div>")]
    )
    # and in place, what a figure lacks: here only the first run has margins
    section = text[text.index('<section id="margin">') : text.index('<section id="bias">')]
    assert "<h3>one</h3>" in section and "<h3>two</h3>" not in section
    assert "Without a validation object (1): j." in text


def test_nulls_everywhere(tmp_path):
    """Nothing but an evaluation, which knows little; and the same bytes again."""
    dataset = write_dataset(tmp_path / "data", num_classes=4, num_images=6, photos=False)
    for record in dataset["classes"]:
        record |= {"group": None, "image_count": None, "instance_count": None}
    dataset["groups"] = []
    run = write_run(tmp_path / "run", dataset | {"num_images": None}, refreshes=0, curve=False)
    path = run / "inference/synthetic_val/results.json"
    results = json.loads(path.read_text())
    results |= {"bias": {}, "correlation": {}, "tide": {}}
    for record in results["classes"][2:]:
        record |= {"information": None, "AP": {"bbox": None}}
    path.write_text(json.dumps(results))
    text, _ = report([run], tmp_path / "out")
    for sentence in (
        "No run has an information.jsonl",
        "No run has margins",
        "The results hold no TIDE errors",
        "No run has a metrics.json",
        "cannot be read from here",
    ):
        assert text.count(sentence) == 1 + (sentence == "cannot be read from here")
    assert "2 of 4 classes have no validation object" in text
    assert not re.search(r">[^<]*\bnan\b", text)
    again, _ = report([run], tmp_path / "again")
    assert again == text
    for picture in (tmp_path / "out/figures").iterdir():
        assert picture.read_bytes() == (tmp_path / "again/figures" / picture.name).read_bytes()
    os.unlink(path.with_name("detections.npz"))
    text, log = report([run], tmp_path / "out")
    assert sum("detections.npz are missing" in line for line in log) == 1
    assert text.count("This needs annotations and detections") == 3


def test_many_classes(tmp_path):
    dataset = write_dataset(tmp_path / "data", 1203, 300, photos=False)
    runs = [
        write_run(tmp_path / name, dataset, skill=0.4 + 0.1 * i, seed=i, tasks=("bbox", "segm"))
        for i, name in enumerate(("one", "two"))
    ]
    text, _ = report(runs, tmp_path / "out", task="segm")
    page = Page(text)
    assert len(text) < 15e6 and len([row for row in page.rows if len(row) == 10]) == 1204
    names = {path.stem for path in (tmp_path / "out/figures").glob("*.png")}
    assert names == {
        "ap_by_group", "ap_correlation", "information_history", "margins_one", "margins_two",
        "model_bias", "tide", "learning_curves", "confusion_one", "confusion_two",
    }  # fmt: skip
    assert "With 1,203 classes see the table" in text
    assert "All 1,446,006 margins" in (tmp_path / "out/figures/margins_one.svg").read_text()
    assert "Mask AP" in text and "Box AP" in text


def _load_command():
    spec = importlib.util.spec_from_file_location("report_command", ROOT / "tools" / "report.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    return command


def test_command(tmp_path, capsys, monkeypatch):
    command = _load_command()

    def refused(*args: object) -> None:
        with pytest.raises(SystemExit) as end:
            command.main([*map(str, args)])
        assert end.value.code == 2

    refused(tmp_path / "nothing", tmp_path / "neither")
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 2
    dataset = write_dataset(tmp_path / "data", 3, 4, photos=False)
    run = write_run(tmp_path / "run", dataset, refreshes=0, curve=False)
    refused(run, "--task", "segm")
    captured = capsys.readouterr()
    assert captured.out == "" and "No run was evaluated for segm" in captured.err
    for wrong in (
        ["--score-threshold", "30"],
        ["--max-rare", "-1"],
        ["--output", dataset["json_file"]],
    ):
        refused(run, *wrong)
        captured = capsys.readouterr()
        assert wrong[1] in captured.err.splitlines()[-1] and captured.out == ""
    monkeypatch.setattr(command, "write_report", fake := FakeReport(run))
    command.main([str(run), "--max-rare", "5", "--score-threshold", "0.4"])
    assert fake.kwargs["output"] == run / "report" and fake.kwargs["max_rare"] == 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "report.html" and "AP50" in lines[0] and lines[1].startswith("run ")
    command.main([str(run), str(run)])
    assert fake.kwargs["output"] == Path("output/report")


class FakeReport:
    def __init__(self, run):
        self.run = run

    def __call__(self, folders, output, **kwargs):
        from igam_d2.report.run_folder import load_run

        self.kwargs = kwargs | {"output": output}
        return Path("report.html"), [load_run(self.run)]


def test_metrics_as_text(two_runs):
    from igam_d2.report.run_folder import load_runs

    root, _, _ = two_runs
    runs, _ = load_runs([root / "one", root / "two"])
    lines = metrics_text(runs).splitlines()
    first, second, change = ([cell for cell in line.split()[1:]] for line in lines[1:4])
    assert len({len(line) for line in (lines[0], *lines[1:3])}) == 1  # right-aligned columns
    assert lines[0].startswith("synthetic_val, box  ") and lines[0].endswith(" AR@300")
    for a, b, d in zip(first[:5], second[:5], change[:5], strict=True):
        assert float(d) == pytest.approx(float(b) - float(a), abs=0.011)


def test_without_detectron2_and_torch():
    code = """
import sys, warnings
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("detectron2", "torch", "jinja2"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
warnings.simplefilter("ignore")
import igam_d2.report.build_report
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
