"""Model bias and correlations against formulas written out."""

import numpy as np
import pytest
from scipy import stats

from igam_d2.class_statistics import class_correlations, correlation, model_bias


def test_model_bias_leaves_out_classes_without_ground_truth():
    bias = model_bias(np.array([10.0, 20.0, np.nan, 60.0]))
    assert bias == pytest.approx(
        {"variance": (400 + 100 + 900) / 3, "std": (1400 / 3) ** 0.5, "num_classes": 3}
        | {"num_left_out": 1}
    )
    assert np.isnan(model_bias(np.array([np.nan]))["std"])


def test_correlation_and_its_intervals():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    x[3], y[7] = np.nan, np.inf
    result = correlation(x, y)
    known = np.isfinite(x) & np.isfinite(y)
    assert result["num_classes"] == 38
    r = np.corrcoef(x[known], y[known])[0, 1]
    interval = stats.pearsonr(x[known], y[known]).confidence_interval()
    assert result["pearson"] == pytest.approx([r, *interval])
    ranks = [np.argsort(np.argsort(values[known])) for values in (x, y)]
    rho = np.corrcoef(*ranks)[0, 1]
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / 35)
    expected = [rho, np.tanh(np.arctanh(rho) - half), np.tanh(np.arctanh(rho) + half)]
    assert result["spearman"] == pytest.approx(expected, abs=1e-6)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = np.zeros(2)
    truth = (0.6, 6 / np.pi * np.arcsin(0.3))  # of normal pairs: Pearson, Spearman
    for _ in range(500):
        x = rng.normal(size=30)
        y = 0.6 * x + 0.8 * rng.normal(size=30)
        result = correlation(x, y)
        for i, name in enumerate(("pearson", "spearman")):
            covered[i] += result[name][1] < truth[i] < result[name][2]
    assert ((covered / 500 > 0.92) & (covered / 500 < 0.98)).all()


@pytest.mark.parametrize(
    "x, y, value, low",
    [
        ([1, 2], [2, 1], np.nan, np.nan),
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], np.nan, np.nan),
        ([1, 2, 3], [1, 2, 3], 1, np.nan),
        ([1, 2, 3, 4], [8, 6, 4, 2], -1, -1),
    ],
)
def test_too_few_or_constant_or_exact(x, y, value, low):
    result = correlation(x, y)
    for name in ("pearson", "spearman"):
        assert result[name] == pytest.approx([value, low, low], nan_ok=True)


def test_class_correlations_name_what_is_known():
    ap, count = np.array([1.0, 2, 3, 5]), np.array([0, 10, 100, 1000])
    results = class_correlations(ap, np.full(4, np.nan), count)
    assert set(results) == {"instance_count", "log_instance_count"}
    assert results["instance_count"]["num_classes"] == 4
    assert results["log_instance_count"]["num_classes"] == 3  # no instance has no logarithm
    both = class_correlations(ap, np.array([4.0, 3, 2, 1]), np.full(4, np.nan))
    assert set(both) == {"information"} and both["information"]["spearman"][0] == -1
