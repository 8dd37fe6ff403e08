"""How evenly a model treats the classes, and what its per-class AP goes along with."""

import math
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["class_correlations", "correlation", "model_bias"]

Z_95 = stats.norm.ppf(0.975)  # two-sided 95%


def model_bias(class_ap: np.ndarray) -> dict[str, float]:
    """Variance of the per-class AP, the model bias of the paper's Figure 4.

    Args:
        class_ap: (K,) in %, NaN for a class without ground truth: it is left out, and counted.

    Returns:
        ``variance`` in %², ``std`` in %, over ``num_classes``; ``num_left_out`` are the others.
        NaN without a class.
    """
    known = np.asarray(class_ap, dtype=np.float64)
    known = known[np.isfinite(known)]
    variance = float(known.var()) if len(known) else math.nan
    return {
        "variance": variance,
        "std": math.sqrt(variance),
        "num_classes": len(known),
        "num_left_out": len(class_ap) - len(known),
    }


def correlation(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Pearson's and Spearman's correlation of two quantities of K classes.

    Args:
        x, y: (K,); a class where either is not finite is left out.

    Returns:
        ``pearson`` and ``spearman``, each [value, low, high] with the 95% confidence interval, and
        ``num_classes`` that were used. The intervals are by Fisher's transformation, for Spearman
        with the variance of Bonett and Wright (2000). NaN where there is none: fewer than three
        classes, or a constant; the interval needs four classes.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[known], y[known], int(known.sum())
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        nothing = [math.nan] * 3
        return {"pearson": nothing, "spearman": list(nothing), "num_classes": n}
    pearson = float(stats.pearsonr(x, y).statistic)
    spearman = float(stats.spearmanr(x, y).statistic)
    return {
        "pearson": [pearson, *_interval(pearson, n, 1.0)],
        "spearman": [spearman, *_interval(spearman, n, 1 + spearman**2 / 2)],
        "num_classes": n,
    }


def _interval(r: float, n: int, variance: float) -> tuple[float, float]:
    """Of a correlation of n pairs, atanh(r) being normal with variance / (n - 3)."""
    if n < 4:
        return math.nan, math.nan
    if abs(r) >= 1:
        return r, r
    z, half = math.atanh(r), Z_95 * math.sqrt(variance / (n - 3))
    return math.tanh(z - half), math.tanh(z + half)


def class_correlations(
    class_ap: np.ndarray, information: np.ndarray, instance_count: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The :func:`correlation` of AP with each of what may explain it (Figures 1, 2 and Table 1).

    Args:
        class_ap, information, instance_count: (K,), NaN for what is not known.

    Returns:
        For ``information``, ``instance_count`` and ``log_instance_count`` what
        :func:`correlation` returns; one of which fewer than three classes are known is not there.
    """
    count = np.asarray(instance_count, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_count = np.log(count)  # no instance: -Inf, which is left out
    variables = {
        "information": information,
        "instance_count": count,
        "log_instance_count": log_count,
    }
    results = {name: correlation(x, class_ap) for name, x in variables.items()}
    return {name: result for name, result in results.items() if result["num_classes"] >= 3}
