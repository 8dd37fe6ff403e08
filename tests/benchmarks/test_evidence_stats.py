"""The evidence of the benchmark of losses: its statistics."""

import math
from dataclasses import replace

import numpy as np
import pytest
from evidence_runs import record, records, stats
from scipy import stats as scipy_stats

from igam_d2.errors import InputError


def test_summary_over_seeds():
    runs = [record("a", seed) for seed in (3, 1, 2)]
    runs[0] = replace(runs[0], metrics={**runs[0].metrics, "APr": math.nan})
    found = stats.summary(runs)
    assert found["seeds"] == [1, 2, 3]
    values = [runs[i].metrics["AP"] for i in (1, 2, 0)]
    mean = sum(values) / 3
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    assert found["metrics"]["AP"] == {"values": values, "mean": pytest.approx(mean),
                                      "std": pytest.approx(std)}  # fmt: skip
    assert math.isnan(found["metrics"]["APr"]["mean"])
    one = stats.summary(runs[:1])["metrics"]["AP"]
    assert one["mean"] == runs[0].metrics["AP"] and math.isnan(one["std"])


def test_partial_spearman_is_the_correlation_of_the_residuals_of_ranks():
    rng = np.random.default_rng(3)
    z = rng.normal(size=60).round(1)  # with ties
    x, y = z + rng.normal(size=60), rng.normal(size=60) - z
    x[4], y[9] = np.nan, np.inf
    known = np.isfinite(x) & np.isfinite(y)
    ranks = [scipy_stats.rankdata(v[known]) for v in (x, y, z)]
    residuals = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    r = np.corrcoef(*residuals)[0, 1]
    half = 1.959964 * math.sqrt((1 + r**2 / 2) / (58 - 4))
    wanted = [r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)]
    assert stats.partial_spearman(x, y, z) == pytest.approx(wanted, abs=1e-6)


def test_partial_spearman_where_there_is_none():
    x = np.arange(8.0)
    assert np.isnan(stats.partial_spearman(x, np.sin(x), x**3)).all()  # the given says all of x
    assert np.isnan(stats.partial_spearman(x[:3], x[:3] ** 2, np.ones(3))).all()
    assert np.isnan(stats.partial_spearman(x, np.ones(8), np.sin(x))).all()
    assert stats.partial_spearman(x, 2 * x, np.sin(x)) == pytest.approx([1, 1, 1])


def test_intervals_of_the_partial_correlation_cover_as_often_as_they_say():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        z = rng.normal(size=50)
        _, low, high = stats.partial_spearman(*(z + rng.normal(size=(2, 50))), z)
        covered += low < 0.012 < high  # of ranks of such normal triples it is not quite zero
    assert 0.92 < covered / 400 < 0.98


def test_class_means_are_of_what_all_seeds_know():
    runs = [record("a", seed) for seed in (1, 2, 3)]
    runs[1].information[3] = np.nan
    ap, bits = stats.class_means(runs)
    for k in range(50):
        values = [run.information[k] for run in runs]
        assert bits[k] == pytest.approx(sum(values) / 3, nan_ok=True)
        assert ap[k] == pytest.approx(sum(run.class_ap[k] for run in runs) / 3, nan_ok=True)
    assert np.flatnonzero(np.isnan(bits)).tolist() == [3, 47, 48, 49]
    assert np.flatnonzero(np.isnan(ap)).tolist() == [7, 49]


@pytest.mark.parametrize("group", [None, "r"])
def test_paired_difference_against_loops(group):
    ours = [record("a", seed, gain=1.0) for seed in (5, 3, 2, 1)]  # 5 is not paired
    theirs = [record("b", seed) for seed in (1, 2, 3, 4)]
    theirs[0].class_ap[11] = np.nan  # then left out of all
    classes = None if group is None else np.array([g == group for g in ours[0].class_groups])
    found = stats.paired_difference(ours, theirs, classes)
    assert found.seeds == (1, 2, 3)
    chosen = [k for k in range(50) if k not in (7, 11, 49)
              and group in (None, ours[0].class_groups[k])]  # fmt: skip
    assert found.num_classes == len(chosen)
    a, b = ({r.seed: r.class_ap for r in runs} for runs in (ours, theirs))
    values = [sum(a[s][k] - b[s][k] for k in chosen) / len(chosen) for s in (1, 2, 3)]
    assert found.values == pytest.approx(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    t = scipy_stats.ttest_1samp(values, 0)
    assert found.p_value == pytest.approx(t.pvalue)
    assert found.seed_interval == pytest.approx(tuple(t.confidence_interval(0.95)))

    of_classes = [sum(a[s][k] - b[s][k] for s in (1, 2, 3)) / 3 for k in chosen]
    rng, means = np.random.default_rng(0), []
    for _ in range(stats.DRAWS):
        drawn = rng.integers(0, len(chosen), len(chosen))
        means.append(sum(of_classes[i] for i in drawn) / len(chosen))
    means.sort()
    low, high = np.interp([0.025, 0.975], np.linspace(0, 1, stats.DRAWS), means)
    assert found.class_interval == pytest.approx((low, high))
    if group is None:  # of many classes it is nearly the normal one
        half = 1.96 * np.std(of_classes) / math.sqrt(len(chosen))
        near = (found.mean - half, found.mean + half)
        assert found.class_interval == pytest.approx(near, abs=0.1 * half)


def test_the_difference_is_that_of_the_metrics():
    ours, theirs = ([record(method, seed) for seed in (1, 2, 3)] for method in "ab")
    for metric in records.CLASS_METRICS:
        found = stats.paired_difference(ours, theirs, records.metric_classes(ours[0], metric))
        wanted = [a.metrics[metric] - b.metrics[metric] for a, b in zip(ours, theirs, strict=True)]
        assert found.values == pytest.approx(wanted)


def test_the_share_of_a_part_against_loops():
    rng = np.random.default_rng(2)
    total = rng.normal(3, 2, 30)
    part = 0.6 * total + rng.normal(0, 1, 30)
    value, low, high = stats.share_interval(part, total)
    assert value == pytest.approx(sum(part) / sum(total))
    rng, shares = np.random.default_rng(0), []
    for drawn in rng.integers(0, 30, (stats.DRAWS, 30)):
        shares.append(sum(part[i] for i in drawn) / sum(total[i] for i in drawn))
    assert [low, high] == pytest.approx(np.percentile(shares, [2.5, 97.5]))
    for less in (total - 9, np.empty(0)):
        assert np.isnan(stats.share_interval(part[: len(less)], less)).all()
    uncertain = rng.normal(0, 9, 30)
    uncertain += 0.5 - uncertain.mean()  # above zero, but not in all draws
    value, low, high = stats.share_interval(part, uncertain)
    assert value == pytest.approx(part.mean() / 0.5) and math.isnan(low) and math.isnan(high)


def test_beyond_noise_needs_both_intervals():
    def runs(method, gains, noise):
        all_runs = []
        for seed, gain in enumerate(gains):
            run = record("b", 1)
            wave = noise * np.resize([1, -1], 50)
            all_runs.append(replace(run, method=method, seed=seed, class_ap=30 + gain + wave))
        return all_runs

    base = runs("b", [0] * 3, 0)
    for gains, noise, beyond in (
        ([3.0, 3.1, 2.9], 1, True),
        ([-3.0, -3.1, -2.9], 1, True),
        ([3.0, 3.1, 2.9], 30, False),  # among the classes
        ([9.0, 1.0, -1.0], 1, False),  # among the seeds
        ([3.0, 3.1], 1, False),  # of too few
        ([3.0], 1, False),  # not known
    ):
        found = stats.paired_difference(runs("a", gains, noise), base)
        assert found.beyond_noise is beyond, gains
    assert np.isnan(found.seed_interval).all() and math.isnan(found.std)
    assert math.isnan(found.p_value)
    two = stats.paired_difference(runs("a", [3.0, 3.1], 1), base)
    assert math.isnan(two.p_value) and two.seed_interval[0] > 0 and not two.beyond_noise
    same = stats.paired_difference(runs("a", [0] * 3, 0), base)
    assert same.p_value == 1 and same.seed_interval == (0, 0) and not same.beyond_noise


def test_nothing_to_pair():
    assert stats.paired_difference([record("a", 1)], [record("b", 2)]) is None
    assert stats.paired_difference([record("a", 1)], [record("b", 1)], np.full(50, False)) is None
    single = record("a", 1)
    one = np.arange(50) == 0
    found = stats.paired_difference([single], [record("b", 1)], one)
    assert found.num_classes == 1 and np.isnan(found.class_interval).all()
    with pytest.raises(InputError, match="different classes"):
        stats.paired_difference([record("a", 1, k=30)], [record("b", 1)])


def test_holm():
    found = stats.holm({"a": 0.04, "b": 0.01, "c": math.nan, "d": 0.03})
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": math.nan, "d": 0.06}, nan_ok=True)
    assert stats.holm({"a": 0.9, "b": 0.8})["b"] == 1
