"""The evidence of the benchmark of losses: its figures."""

from dataclasses import replace

import numpy as np
import pytest
from evidence_runs import (
    GRID,
    METHODS,
    SERIES,
    benchmark,
    class_figures,
    correlations,
    drawing,
    figures,
    margins_figure,
    record,
    tables,
)
from evidence_runs import records as er
from PIL import Image

from igam_d2.errors import InputError
from igam_d2.report.style import coefficient


@pytest.fixture(scope="module")
def records():
    return benchmark()


def draw_all(records):
    return [
        figures.differences_figure(records, METHODS, "cosine_ce_s20", "cached"),
        figures.sweep_figure(records, SERIES),
        figures.grid_figure(records, GRID, "cosine_ce_s20"),
        class_figures.ap_figure(records, "cosine_ce_s20", name="ap"),
        class_figures.gain_figure(records, "igam_ratio_oas_s20", "cosine_ce_s20", "cached"),
        margins_figure.margins_figure(records, GRID, "cached"),
    ]


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_figures_are_written(seeds, records, tmp_path):
    some = [r for r in records if r.seed in seeds and r.method != "igam_paper_oas_s20"]
    for figure in draw_all(some):
        path = drawing.save(figure, tmp_path / "figures")
        assert path.stat().st_size > 20_000 and figure.caption and figure.alt
        with Image.open(path) as image:
            assert image.width == 1200 and 300 < image.height < 1200
            assert len(image.convert("L").getcolors()) > 20
    assert len(list((tmp_path / "figures").iterdir())) == 6


def test_captions_say_what_is_plotted(records):
    ap, gain, margins = (d.caption for d in draw_all(records)[3:])
    assert "of the 46 with an information amount" in ap
    found = correlations.correlations(er.select(records, "cosine_ce_s20"))
    value = found["pearson_information"]
    assert f"r = {coefficient(value[0])} (95% {coefficient(value[1])} to" in ap
    assert gain.startswith("Second stages on cached RoI features.") and "46 with such" in gain
    assert "Before the first refresh, at iteration 250 of 1,500, all are 0." in margins
    drawn = figures.grid_figure(records, GRID, "cosine_ce_s20", "cached")
    assert "Holm's adjustment for all comparisons of a metric, 12." in drawn.caption
    bold = [
        text for ax in drawn.figure.axes[:2] for text in ax.texts if text.get_weight() == "bold"
    ]
    _, content = tables.grid_table(records, GRID, "cosine_ce_s20", "cached")
    wanted = [of[f"{metric} difference"]["holds_after_holm"] for metric in ("AP", "APr")
              for row in content["cells"].values() for of in row.values()]  # fmt: skip
    assert len(bold) == sum(wanted)


def test_points_of_the_gain(records):
    ours, theirs = (er.select(records, m) for m in ("seesaw", "eqlv2"))
    drawn = class_figures.gain_figure(
        [*ours[:2], *theirs[1:]], "seesaw", "eqlv2"
    )  # seed 2 is common
    gain = ours[1].class_ap - theirs[1].class_ap
    points = np.concatenate([c.get_offsets() for c in drawn.figure.axes[1].collections])
    shown = sorted((x, y) for x, y in points.tolist() if y == y)
    wanted = [(theirs[0].instance_count[k], gain[k]) for k in range(50) if k not in (7, 49)]
    assert shown == sorted(wanted)
    assert "(1 seed)" in drawn.caption and "bar" not in drawn.caption


def test_figures_of_runs_that_lack_something(tmp_path):
    bare = replace(record("a", 1), groups={}, class_groups=(None,) * 50)
    bare = replace(bare, information=np.full(50, np.nan), instance_count=np.zeros(50))
    drawing.save(class_figures.ap_figure([bare], "a"), tmp_path)
    assert (tmp_path / "ap_a.png").is_file()
    drawn = class_figures.gain_figure([bare, replace(bare, method="b")], "a", "b", name="none")
    assert drawing.save(drawn, tmp_path).is_file()
    run = record("igam_mean_none_s20", 1)
    zero = replace(run, margins=er.Margins(np.array([250]), np.zeros(1), np.zeros(1), 1))
    # At the first refresh none, and not the same number of refreshes
    late = er.Margins(np.array([250, 500, 750]), np.array([0, 0.1, 0.2]), np.full(3, 0.01), 1)
    late = [replace(run, margins=late), record("igam_mean_none_s20", 2)]
    assert drawing.save(margins_figure.margins_figure(late, GRID), tmp_path).is_file()
    for draw in (
        lambda: figures.differences_figure([], METHODS, "cosine_ce_s20"),
        lambda: figures.sweep_figure([], SERIES),
        lambda: figures.grid_figure([], GRID, "cosine_ce_s20"),
        lambda: class_figures.ap_figure([], "a"),
        lambda: class_figures.gain_figure([run], run.method, "a"),
        lambda: class_figures.gain_figure([run, record("a", 2)], run.method, "a"),
        lambda: margins_figure.margins_figure([replace(run, margins=None)], GRID),
        lambda: margins_figure.margins_figure([zero], GRID),
    ):
        with pytest.raises(InputError, match="no evaluated runs of"):
            draw()
