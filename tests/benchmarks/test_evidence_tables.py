"""The evidence of the benchmark of losses: its tables."""

import math
from dataclasses import replace

import numpy as np
import pytest
from evidence_runs import (
    GRID,
    PUBLISHED,
    READINGS,
    SERIES,
    SHRINKAGES,
    benchmark,
    cells,
    check_json,
    method_label,
    method_labels,
    seeds_cell,
    small_cell,
    stats,
    tables,
)
from evidence_runs import records as er


@pytest.fixture(scope="module")
def records():
    return benchmark()


def test_main_table(records):
    page, content = tables.main_table(records, ["softmax_ce", "nothing", "c2am_s20"], "cached")
    rows = cells(page)
    assert rows[0] == ["method", "seeds", "AP", "APr", "APr2", "APc", "APf", "bias std"]
    values = [run.metrics["AP"] for run in er.select(records, "softmax_ce")]
    cell = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert rows[2][:3] == ["softmax CE", "1-3", cell]
    assert rows[3] == ["nothing", "none", *["-"] * 6] and "other seeds" not in page
    assert rows[4][0] == "C2AM, s = 20"
    assert content["methods"][0]["metrics"]["bias variance"]["mean"] > 0
    check_json(content)
    page, _ = tables.main_table(records, ["softmax_ce"], "full")
    assert cells(page)[2][1] == "none"
    some = [r for r in records if (r.method, r.seed) != ("c2am_s20", 2)]
    page, _ = tables.main_table(some, ["softmax_ce", "c2am_s20"], "cached")
    assert [row[1] for row in cells(page)[2:]] == ["1-3", "1, 3"] and "Rows of other seeds" in page


def test_grid_table(records):
    some = [r for r in records if r.method != "igam_paper_oas_s20"]
    page, content = tables.grid_table(some, GRID, "cosine_ce_s20", "cached")
    rows = cells(page)
    assert rows[0] == ["AP: reading", "none", "floor", "OAS"]
    assert [row[0] for row in rows[2:6]] == ["paper", "mean sqrt", "mean", "ratio"]
    assert rows[2][3] == "-" and rows[6][0] == "APr: reading" and len(rows) == 12
    theirs = er.select(records, "cosine_ce_s20")
    rare = er.metric_classes(theirs[0], "APr")
    found = {
        method: stats.paired_difference(er.select(some, method), theirs, rare)
        for method in GRID.values()
        if er.select(some, method)
    }
    p_values = stats.holm({method: d.p_value for method, d in found.items()})
    bold = set()
    for i, reading in enumerate(READINGS):
        for j, shrinkage in enumerate(SHRINKAGES):
            if (method := GRID[reading, shrinkage]) in found:
                d, cell = found[method], content["cells"][reading][shrinkage]["APr difference"]
                assert cell["mean"] == d.mean and cell["p_holm"] == p_values[method]
                holds = d.beyond_noise and p_values[method] < 0.05
                assert cell["holds_after_holm"] is holds
                assert ("**" in rows[8 + i][1 + j]) is holds
                bold.add((d.beyond_noise, holds))
    assert (True, False) in bold  # what the number of comparisons takes away
    assert content["cells"]["paper"]["oas"]["AP"] is None and "of a metric, 11." in page
    two = [run for run in records if run.seed < 3]
    page, _ = tables.grid_table(two, GRID, "cosine_ce_s20", "cached")
    assert "**" not in page and "none is tested" in page
    check_json(content)


def test_margins_table(records):
    page, content = tables.margins_table(records, ["softmax_ce", *GRID.values()])
    rows = cells(page)
    assert rows[2] == ["softmax CE", "none", "-", *["-"] * 7]
    runs = er.select(records, GRID["ratio", "oas"])
    found = content["methods"][-1]
    assert found["last largest"]["values"] == [run.margins.largest[-2] for run in runs]
    assert found["last largest times scale"]["mean"] == pytest.approx(
        20 * found["last largest"]["mean"]
    )
    assert found["last mean times scale"]["values"] == pytest.approx(
        [20 * run.margins.mean[4] for run in runs]
    )
    assert found["first mean"]["values"] == [run.margins.mean[0] for run in runs]
    assert rows[-1][2] == "250 and 1,250 of 1,500" and rows[-1][-3] == "20"
    never = [replace(run, max_iter=250) for run in runs]
    assert cells(tables.margins_table(never, [runs[0].method])[0])[2][1:3] == ["none", "-"]
    check_json(content)


def test_sweep_table(records):
    some = [r for r in records if r.method != "cosine_ce_s50"]
    page, content = tables.sweep_table(some, SERIES, PUBLISHED, "Table 2")
    rows = cells(page)
    assert rows[0] == ["s", "cosine CE, AP", "cosine CE, APr", "IGAM mean, OAS, AP",
                       "IGAM mean, OAS, APr", "Table 2, AP", "Table 2, APr"]  # fmt: skip
    assert [row[0] for row in rows[2:]] == ["10", "20", "30", "40", "50"]
    assert rows[6][1] == "-" and rows[5][6] == "-"
    assert rows[2][5] == "16.8 (\N{MINUS SIGN}9.4)" and rows[3][5] == "26.2 (0.0)"
    assert "Table 2 are not ours" in page
    assert "not ours" not in tables.sweep_table(some, SERIES)[0]
    check_json(content)


def test_names_of_seeds():
    for seeds, text in {
        (1, 2, 3, 4): "1-4",
        (3, 1): "1, 3",
        (1, 2, 5): "1-2, 5",
        (7,): "7",
    }.items():
        assert seeds_cell(seeds) == text
    assert seeds_cell([]) == "none"


def test_names_of_methods():
    for method, label in {
        "softmax_ce_rfs": "softmax CE, RFS",
        "cosine_ce_s20": "cosine CE, s = 20",
        "cosine_ce": "cosine CE",
        "igam_mean_sqrt_oas": "IGAM mean sqrt, OAS",
        "igam_mean_none_s20_opposite": "IGAM mean, no shrinkage, s = 20, opposite sign",
        "igam_opposite": "IGAM, opposite sign",
        "igam_s50": "IGAM, s = 50",
        "my_loss": "my_loss",
    }.items():
        assert method_label(method) == label
    one = method_labels(["softmax_ce", "cosine_ce_s20", "igam_mean_oas_s20"])
    assert list(one.values()) == ["softmax CE", "cosine CE", "IGAM mean, OAS"]
    assert method_labels(["cosine_ce_s20", "igam_s30"])["igam_s30"] == "IGAM, s = 30"


@pytest.mark.parametrize(
    "mean, std, text",
    [
        (0.00131, 6.2e-5, "0.00131 ± 0.00006"),
        (2.4, 0.23, "2.40 ± 0.23"),
        (123.4, 2.0, "123 ± 2"),
        (0.0, 0.0, "0.0 ± 0.0"),
        (0.02, math.nan, "0.0200"),
        (math.nan, math.nan, "-"),
    ],
)
def test_small_numbers_have_three_digits(mean, std, text):
    assert small_cell({"mean": mean, "std": std}) == text
