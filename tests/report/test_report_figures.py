"""What figures say, where runs differ in what they know."""

import json
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from synthetic import write_dataset, write_run

from igam_d2.report import ap_figures, correlation_figure, information_figures
from igam_d2.report.run_folder import load_run, load_runs
from igam_d2.report.style import STYLE, by_frequency, run_style
from igam_d2.report.tables import metrics_text, run_mark


def texts(figure) -> str:
    """All that is written in a figure."""
    axes = [text.get_text() for ax in figure.axes for text in ax.texts]
    axes += [ax.get_title("left") for ax in figure.axes]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join(axes + legends)


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(STYLE):
        yield


@pytest.fixture
def run(tmp_path):
    return load_run(write_run(tmp_path / "run", write_dataset(tmp_path / "data", photos=False)))


def edited(run, **changes):
    """The run with these values in every class record."""
    return replace(run, classes=[record | changes for record in run.classes])


def test_a_run_that_was_not_evaluated_for_the_task(tmp_path):
    dataset = write_dataset(tmp_path / "data", photos=False)
    folders = [
        write_run(tmp_path / name, dataset, tasks=tasks)
        for name, tasks in (("boxes", ("bbox",)), ("both", ("bbox", "segm")))
    ]
    runs, _ = load_runs(folders)
    for make in (ap_figures.model_bias_figure, ap_figures.class_ap):
        drawing = make(runs, "segm")
        assert "boxes" not in texts(drawing.figure) + drawing.alt
        assert "Not evaluated for mask AP: boxes." in drawing.caption
        assert "Not evaluated" not in make(runs, "bbox").caption
    bias = ap_figures.model_bias_figure(runs, "segm")
    assert "1 of 10 classes has no validation object and is left out." in bias.caption
    groups = ap_figures.ap_by_group(runs)
    assert texts(groups.figure).count("not evaluated") == 4  # all classes and three groups
    assert "no ground truth" not in texts(groups.figure)
    assert "Box AP by group. boxes: all" in groups.alt and "Mask AP by group. both: " in groups.alt


@pytest.mark.parametrize("num_classes", [10, 30])
def test_without_training_counts_validation_objects_order(tmp_path, num_classes):
    dataset = write_dataset(tmp_path / "data", num_classes, photos=False)
    run = load_run(write_run(tmp_path / "run", dataset))
    for change, counted in (
        ({}, "training instances"),
        ({"instance_count": None}, "validation objects"),
        ({"val_instances": None}, ""),
    ):
        run = edited(run, **change)
        order, counts, what = by_frequency(run)
        assert what == counted and (not what or (np.diff(counts[order]) <= 0).all())
        drawing = ap_figures.class_ap([run], "bbox")
        said = drawing.caption + drawing.alt
        said += texts(information_figures.margins(run).figure) * (num_classes == 30)
        for words in ("training instances", "validation objects"):
            assert said.count(words) == (words == counted) * (4 if num_classes == 30 else 3)


def test_margins_of_either_sign(run):
    added = information_figures.margins(run)
    assert "adds to" in added.caption and "subtract" not in added.caption
    run = replace(run, history=replace(run.history, margin_sign=-1))
    subtracted = information_figures.margins(run)
    assert "subtracts from" in subtracted.caption and "adds" not in subtracted.caption
    assert "must be that much farther" in subtracted.caption
    assert "sign reversed" in texts(subtracted.figure)
    assert "sign reversed" not in texts(added.figure)
    single = information_figures.margins(replace(run, classes=run.classes[:1]))
    assert single == "run has no margins: it has a single class."


def test_correlations_belong_to_the_points(run):
    assert run.results["correlation"]["bbox"]["information"]["pearson"][0] < 0
    stored = dict(run.results["correlation"]["bbox"])
    expected = correlation_figure.ap_correlation([run], "bbox").alt
    del stored["information"]
    run.results["correlation"] = {"bbox": stored}
    assert correlation_figure.ap_correlation([run], "bbox").alt == expected
    stored["information"] = {"pearson": [0.5, None, None], "spearman": [None] * 3, "num_classes": 3}
    alt = correlation_figure.ap_correlation([run], "bbox").alt
    assert "r = .50 (95% unknown), \u03c1 = unknown, n = 3" in alt  # stored values win
    stored["information"]["pearson"] = [float("nan")] * 3
    alt = correlation_figure.ap_correlation([run], "bbox").alt
    assert "information amount, r unknown;" in alt and "\u2013" not in alt


def test_no_two_of_many_runs_look_the_same():
    styles = [run_style(i) for i in range(24)]
    assert len({(style["color"], style["marker"]) for style in styles}) == 24
    assert len({(style["color"], str(style["ls"])) for style in styles}) == 24
    assert len({run_mark(i) for i in range(24)}) == 24


def test_long_names_of_metrics_do_not_touch(run):
    path = run.results_file
    results = json.loads(path.read_text())
    results["metrics"]["bbox"] |= {"AP of something": 1.5, "APx": 2.5}
    path.write_text(json.dumps(results))
    head, row = metrics_text([load_run(run.folder)]).splitlines()
    assert "  AP of something" in head and head.startswith("synthetic_val, box  ")
    for name, value in (("AP of something", " 1.50"), ("APx", " 2.50")):
        end = head.index(name + " " * (name != "APx")) + len(name)
        assert row[:end].endswith(value)
