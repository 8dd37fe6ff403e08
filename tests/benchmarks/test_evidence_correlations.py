"""The evidence of the benchmark of losses: what the AP of the classes goes along with."""

import math
from dataclasses import replace

import numpy as np
import pytest
from evidence_runs import correlations, record, stats
from scipy import stats as scipy_stats

PEARSON, SPEARMAN = scipy_stats.pearsonr, scipy_stats.spearmanr


def test_all_correlations_are_of_the_same_classes():
    runs = [record("a", seed) for seed in (1, 2)]
    for run in runs:
        run.information[44:49] = np.nan  # of no run; 7 and 49 have no ground truth
    runs[1].information[[3, 7]] = np.nan  # measured in one of the runs alone
    found = correlations.correlations(runs)
    assert (found["num_classes"], found["num_partly_measured"]) == (50 - 2 - 5 - 1, 1)
    assert found["seeds"] == [1, 2] and found["shrinkages"] == ["oas"]
    chosen = [k for k in range(50) if k not in (3, 7, *range(44, 50))]
    ap = [(runs[0].class_ap[k] + runs[1].class_ap[k]) / 2 for k in chosen]
    bits = [(runs[0].information[k] + runs[1].information[k]) / 2 for k in chosen]
    count = [runs[0].instance_count[k] for k in chosen]
    for name, x, function in (
        ("pearson_information", bits, PEARSON),
        ("spearman_information", bits, SPEARMAN),
        ("pearson_instance_count", count, PEARSON),
        ("pearson_log_instance_count", np.log(count), PEARSON),
        ("spearman_instance_count", count, SPEARMAN),
    ):
        assert found[name][0] == pytest.approx(function(x, ap).statistic)
        single = [function(x if x is not bits else run.information[chosen],
                           run.class_ap[chosen]).statistic for run in runs]  # fmt: skip
        assert found["per_seed"][name]["values"] == pytest.approx(single)
    partial = stats.partial_spearman(np.array(ap), np.array(bits), np.array(count))
    assert found["partial_information"] == pytest.approx(partial)
    partial = stats.partial_spearman(np.array(ap), np.array(count), np.array(bits))
    assert found["partial_log_instance_count"] == pytest.approx(partial)

    every = [k for k in range(50) if k not in (7, 49)]
    ap = [(runs[0].class_ap[k] + runs[1].class_ap[k]) / 2 for k in every]
    assert found["all_classes"]["num_classes"] == 48
    for name, function, of in (
        ("pearson_instance_count", PEARSON, lambda n: n),
        ("pearson_log_instance_count", PEARSON, np.log),
        ("spearman_instance_count", SPEARMAN, np.log),
    ):
        wanted = function(of(runs[0].instance_count[every]), ap).statistic
        assert found["all_classes"][name][0] == pytest.approx(wanted)


def test_correlations_where_nothing_was_measured():
    run = replace(record("a", 1), information=np.full(50, np.nan), shrinkage=None)
    found = correlations.correlations([run, replace(run, seed=2)])
    assert found["num_classes"] == 0 and found["shrinkages"] == []
    for name in (*correlations.CORRELATIONS, *correlations.MORE_THAN_COUNT):
        assert np.isnan(found[name]).all()
    assert np.isfinite(found["all_classes"]["spearman_instance_count"]).all()


def test_whether_information_says_more_than_count_against_loops():
    rng = np.random.default_rng(4)
    count = np.repeat([1, 4, 9, 20, 300, 1000], 4).astype(float)  # with ties
    ap = np.log(count) + rng.normal(0, 1, 24)
    bits = -2 * ap + rng.normal(0, 4, 24)
    found = correlations.more_than_count(ap, bits, count, draws=300)
    drawn = np.random.default_rng(0).integers(0, 24, (300, 24))
    for name, function in zip(correlations.MORE_THAN_COUNT, (SPEARMAN, PEARSON), strict=True):
        value, *draws = (
            abs(function(ap[d], bits[d]).statistic) - abs(function(ap[d], np.log(count)[d])[0])
            for d in (np.arange(24), *drawn)
        )
        assert found[name] == pytest.approx([value, *np.percentile(draws, [2.5, 97.5])])


def test_the_interval_of_more_than_count(monkeypatch):
    rng = np.random.default_rng(6)
    ap, count = rng.normal(size=40), np.exp(rng.normal(size=40))
    clear = correlations.more_than_count(ap, ap + 0.1 * rng.normal(size=40), count)
    assert all(low > 0 and value > 0.5 for value, low, _ in clear.values())
    same = correlations.more_than_count(ap, np.log(count), count)
    assert all(value == pytest.approx([0, 0, 0], abs=1e-9) for value in same.values())
    monkeypatch.setattr(correlations, "BLOCK", 7 * 40)  # in blocks nothing changes
    blocks = correlations.more_than_count(ap, ap**3, count, draws=50)
    monkeypatch.undo()
    for name, value in correlations.more_than_count(ap, ap**3, count, draws=50).items():
        assert value == pytest.approx(blocks[name])
    for columns in ((ap[:3], ap[:3], count[:3]), (ap, ap, np.ones(40))):
        unknown = correlations.more_than_count(*columns)
        assert all(math.isnan(number) for value in unknown.values() for number in value)
