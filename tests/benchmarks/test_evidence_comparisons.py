"""The evidence of the benchmark of losses: tables that compare methods, and classes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from evidence_runs import (
    GRID,
    METHODS,
    benchmark,
    cells,
    check_json,
    class_tables,
    comparison_tables,
    correlations,
    record,
    stats,
)
from evidence_runs import records as er


@pytest.fixture(scope="module")
def records():
    return benchmark()


def test_differences_table(records):
    page, content = comparison_tables.differences_table(
        records, [*METHODS, "nothing"], "cosine_ce_s20"
    )
    rows = cells(page)
    assert len(rows) == 2 + len(METHODS)  # without the baseline, with the one without runs
    assert rows[-1] == ["nothing", "none", *["-"] * 5]
    d = stats.paired_difference(er.select(records, "c2am_s20"), er.select(records, "cosine_ce_s20"))
    (ours,) = [m for m in content["methods"] if m["method"] == "c2am_s20"]
    assert ours["differences"]["AP"]["class_interval"] == list(d.class_interval)
    assert ours["differences"]["AP"]["beyond_noise"] == d.beyond_noise
    p_values = {m["method"]: m["differences"]["AP"] for m in content["methods"]}
    p_values = {name: of["p_value"] for name, of in p_values.items() if of}
    assert ours["differences"]["AP"]["p_holm"] == stats.holm(p_values)["c2am_s20"]
    assert content["num_comparisons"] == 50
    assert "Methods compared with one baseline: 10; comparisons in all: 50." in page
    assert "the 10 comparisons of a column" in page
    assert "Classes: AP 48, APr 15, APr2 13, APc 15, APf 18. Over few classes" in page
    text = next(row for row in rows if row[0] == "C2AM, s = 20")[2]
    assert ("**" in text) == d.beyond_noise and text.count("<br>") == 2
    check_json(content)

    one = [run for run in records if run.seed == 1]
    page, content = comparison_tables.differences_table(one, METHODS, "cosine_ce_s20")
    assert "**" not in "".join("".join(row) for row in cells(page)) and "no test" in page
    assert cells(page)[2][2].endswith("<br>-")  # no interval over seeds
    check_json(content)
    page, content = comparison_tables.differences_table(records, METHODS, "no baseline")
    assert cells(page)[2][2] == "-" and content["num_comparisons"] == 0


def test_differences_to_any_method(records):
    chosen, opposite = "igam_mean_oas_s20", "igam_mean_oas_s20_opposite"
    page, content = comparison_tables.differences_table(
        records, list(GRID.values()), chosen, "cached", baseline_label="the chosen reading"
    )
    rows = cells(page)
    assert len(rows) == 2 + len(GRID) - 1 and "no shrinkage" in rows[2][0]
    assert page.count("Difference to the chosen reading in percentage points (above 0: better") == 1
    assert "cosine CE" not in page and content["baseline"] == chosen
    assert "the 11 comparisons of a column" in page
    page, content = comparison_tables.differences_table(records, [opposite], chosen)
    assert "Difference to IGAM mean, OAS, s = 20 in" in page
    d = stats.paired_difference(er.select(records, opposite), er.select(records, chosen))
    assert content["methods"][0]["differences"]["AP"]["mean"] == d.mean
    other = comparison_tables.differences_table(records, [chosen], opposite)[1]
    assert other["methods"][0]["differences"]["AP"]["mean"] == pytest.approx(-d.mean)


def test_decomposition_table(records):
    methods = ("softmax_ce", "cosine_ce_s20", GRID["ratio", "oas"])
    some = [r for r in records if (r.method, r.seed) != ("cosine_ce_s20", 2)]
    page, content = comparison_tables.decomposition_table(some, *methods, "cached")
    rows = cells(page)
    assert [row[0] for row in rows[2:]] == ["AP", "APr", "APr2", "APc", "APf"]
    assert content["seeds"] == [1, 3] and "that all have (1, 3)" in page
    softmax, cosine, igam = (
        [r for r in er.select(some, method) if r.seed != 2] for method in methods
    )
    for metric in er.CLASS_METRICS:
        found = content["metrics"][metric]
        mean = [np.mean([run.metrics[metric] for run in of]) for of in (softmax, cosine, igam)]
        assert found["classifier"]["mean"] == pytest.approx(mean[1] - mean[0])
        assert found["margins"]["mean"] == pytest.approx(mean[2] - mean[1])
        assert found["total"]["mean"] == pytest.approx(mean[2] - mean[0])
        wanted = (mean[1] - mean[0]) / (mean[2] - mean[0]) if mean[2] > mean[0] else math.nan
        assert found["share_of_classifier"][0] == pytest.approx(wanted, nan_ok=True)
    assert (
        rows[2][4].split("<br>")[0]
        == f"{100 * content['metrics']['AP']['share_of_classifier'][0]:.0f}%"
    )
    check_json(content)
    down = comparison_tables.decomposition_table(records, *methods[::-1], "cached")
    assert [row[4] for row in cells(down[0])[2:]] == ["-"] * 5  # what is lost has no shares
    page, content = comparison_tables.decomposition_table(records, *methods, "full")
    assert cells(page)[2][1:] == ["-"] * 4 and content["seeds"] == []
    check_json(content)


def test_agreement_table(records):
    methods = ["softmax_ce", "igam_mean_none_s20", "c2am_s20"]
    whole = [record(method, seed, gain=gain, kind="full") for seed in (1, 2)
             for method, gain in (("cosine_ce_s20", 0), ("igam_mean_none_s20", 9),
                                  ("softmax_ce", -9))]  # fmt: skip
    page, content = comparison_tables.agreement_table([*records, *whole], methods, "cosine_ce_s20")
    rows = cells(page)[2:]
    assert len(rows) == 10 and not any("C2AM" in row[0] for row in rows)  # it is of one kind alone
    assert [row[1] for row in rows] == ["1-2"] * 10 and [row[3] for row in rows] == ["1-3"] * 10
    same = 0
    for row in content["rows"]:
        for kind, of in (("full", whole), ("cached", records)):
            ours, theirs = (er.select(of, m) for m in (row["method"], "cosine_ce_s20"))
            chosen = er.metric_classes(ours[0], row["metric"])
            d = stats.paired_difference(ours, theirs, chosen)
            assert row[kind]["mean"] == d.mean
        same += row["full"]["mean"] * row["cached"]["mean"] > 0
    assert content["num_same_sign"] == same == [row[5] for row in rows].count("yes")
    assert f"Of 10 differences, {same} have the same sign" in page
    check_json(content)
    page, content = comparison_tables.agreement_table(records, methods, "cosine_ce_s20")
    assert content["num_compared"] == 0 and "Of 0 differences, 0 have" in page
    check_json(content)


def test_gain_by_information(records):
    page, content = class_tables.gain_by_information(
        records, "igam_ratio_oas_s20", "cosine_ce_s20", "cached"
    )
    rows = cells(page)[2:]
    assert [row[0] for row in rows] == [
        "all", "least information", "middle information", "most information",
        "no information amount", "rare", "common", "frequent",
    ]  # fmt: skip
    assert [row[1] for row in rows] == ["48", "16", "15", "15", "2", "15", "15", "18"]
    ours, theirs = (er.select(records, m) for m in ("igam_ratio_oas_s20", "cosine_ce_s20"))
    bits = np.mean([run.information for run in theirs], axis=0)
    known = [k for k in range(50) if k not in (7, 47, 48, 49)]
    known.sort(key=lambda k: bits[k])
    for row, of in zip(content["rows"][1:5], (known[:16], known[16:31], known[31:], [47, 48]),
                       strict=True):  # fmt: skip
        gains = [np.mean([a.class_ap[k] - b.class_ap[k] for a, b in zip(ours, theirs, strict=True)])
                 for k in sorted(of)]  # fmt: skip
        assert row["difference"]["mean"] == pytest.approx(np.mean(gains))
        interval = stats.bootstrap_interval(np.array(gains))
        assert row["difference"]["class_interval"] == pytest.approx(list(interval))
        assert row["instance_count"]["median"] == np.median(ours[0].instance_count[of])
    assert content["rows"][1]["information"]["highest"] == pytest.approx(bits[known[15]])
    assert content["rows"][4]["information"] is None and rows[4][2] == "-"
    d = stats.paired_difference(ours, theirs, er.metric_classes(ours[0], "APr"))
    assert content["rows"][5]["difference"]["mean"] == d.mean
    check_json(content)
    halves = class_tables.gain_by_information(records, "seesaw", "eqlv2", parts=4)[0]
    assert "information, part 4 of 4" in halves
    page, content = class_tables.gain_by_information(records, "nothing", "cosine_ce_s20")
    assert content["rows"] == []
    check_json(content)


def test_correlations_table(records):
    page, content = class_tables.correlations_table(records, ["softmax_ce", "nothing"])
    rows = cells(page)
    assert rows[3] == ["nothing", "none", "-", "0", *["-"] * 9]
    assert rows[2][1:4] == ["1-3", "OAS", "46"]
    assert all(cell.count("<br>") == 1 for cell in rows[2][4:])  # each with its interval
    found = correlations.correlations(er.select(records, "softmax_ce"))
    assert content["methods"][0]["partial_information"] == found["partial_information"]
    assert content["methods"][0]["spearman_more_than_count"] == found["spearman_more_than_count"]
    assert "rows of different shrinkage do not compare" in page and "more not in" not in page
    check_json(content)
    run = er.select(records, "softmax_ce")[0]
    partly = replace(run, information=np.where(np.arange(50) == 3, np.nan, run.information))
    page, _ = class_tables.correlations_table([partly, *records[1:]], ["softmax_ce"])
    assert cells(page)[2][3] == "45" and "of up to 1 more not in every seed" in page
