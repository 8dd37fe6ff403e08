"""Writing the page: in one piece or not at all, and a sentence where it cannot be written."""

import pytest
from synthetic import write_dataset, write_run

from igam_d2.errors import InputError
from igam_d2.report import build_report
from igam_d2.report.build_report import write_report
from igam_d2.report.page import Html, Section, write_page


def test_figures_of_an_earlier_report_are_not_left(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    kept = {"mine.png", "tide.txt", "detectionsx.png"}
    for name in kept | {"rare_28.svg", "tide.png", "confusion_old_run.png"}:
        (folder / name).touch()

    def parts():
        yield "first"
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_page(tmp_path / "report.html", "title", Html(""), [Section("a", "A", parts())])
    assert len(list(folder.iterdir())) == 6  # the earlier page is still there, and so are they
    write_page(tmp_path / "report.html", "title", Html(""), [])
    assert {path.name for path in folder.iterdir()} == kept


def test_the_page_is_whole_or_not_there(tmp_path):
    def parts():
        yield "first"
        raise RuntimeError("in the middle")

    path = tmp_path / "report.html"
    path.write_text("the former")
    with pytest.raises(RuntimeError, match="in the middle"):
        write_page(path, "title", Html(""), [Section("a", "A", parts())])
    assert path.read_text() == "the former"
    assert {item.name for item in tmp_path.iterdir()} == {"report.html", "figures"}


@pytest.mark.parametrize("at", ["out", "out/figures", "out/report.html"])
def test_an_output_that_cannot_be_written(tmp_path, at):
    dataset = write_dataset(tmp_path / "data", 3, 4, photos=False)
    run = write_run(tmp_path / "run", dataset, refreshes=0, curve=False)
    path = tmp_path / at
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if path.suffix else path.touch()
    log = []
    with pytest.raises(InputError, match=r"cannot be written to .*: choose another --output") as e:
        write_report([run], tmp_path / "out", log=log.append)
    assert str(path) in str(e.value) and not log  # before annotations are read


def test_an_output_that_fails_later(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data", 3, 4, photos=False)
    run = write_run(tmp_path / "run", dataset, refreshes=0, curve=False)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_report, "write_page", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report([run], tmp_path / "out", log=lambda text: None)
