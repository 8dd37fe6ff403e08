"""What the AP of the classes goes along with: their information amounts, or their numbers.

As in :mod:`study.stats`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from igam_d2.class_statistics import class_correlations
from study.records import RunRecord
from study.stats import DRAWS, class_means, mean_std, of_one_method, partial_spearman

__all__ = ["CORRELATIONS", "COUNTS", "MORE_THAN_COUNT", "correlations", "more_than_count"]

COUNTS = ("pearson_instance_count", "pearson_log_instance_count", "spearman_instance_count")
CORRELATIONS = (
    "pearson_information",
    "spearman_information",
    *COUNTS,
    "partial_information",
    "partial_log_instance_count",
)
MORE_THAN_COUNT = ("spearman_more_than_count", "pearson_more_than_log_count")
BLOCK = 1_000_000  # numbers that the bootstrap holds at once


def correlations(records: Sequence[RunRecord]) -> dict[str, Any]:
    """How the AP of the classes goes along with information and with training instances.

    All numbers are of the same classes, those with AP, training instances and an information amount
    in every run: of one instance there is no amount, and what leaves out these classes does not
    compare with what does not.

    Args:
        records: of one method. AP and information are averaged over the seeds.

    Returns:
        `seeds`, `shrinkages` that the amounts were measured with, `num_classes`,
        `num_partly_measured` (left out because some of the runs have measured them and others
        have not), and [value, low, high] with the 95% interval over classes for each of

        - CORRELATIONS. Partial ones are Spearman's, of AP with information given the log of the
          count, and the other way round; ranks do not change under a logarithm, so that Spearman's
          with the count and with its log are one.
        - MORE_THAN_COUNT: see :func:`more_than_count`.

        `per_seed` has :func:`mean_std` of the values of the single runs, over these classes, and
        `all_classes` has COUNTS and their `num_classes` without regard to information.
    """
    runs = of_one_method(records)
    ap, information = class_means(runs)
    count = np.where(runs[0].instance_count > 0, runs[0].instance_count, math.nan)
    counted = np.isfinite(ap) & np.isfinite(count)
    common = counted & np.isfinite(information)
    measured = np.isfinite([run.information for run in runs])
    partly = counted & measured.any(axis=0) & ~measured.all(axis=0)
    columns = (ap[common], information[common], count[common])
    single = [_correlations(r.class_ap[common], r.information[common], columns[2]) for r in runs]
    everywhere = _correlations(ap[counted], information[counted], count[counted])
    return {
        "seeds": [run.seed for run in runs],
        "shrinkages": sorted({run.shrinkage for run in runs if run.shrinkage is not None}),
        "num_classes": int(common.sum()),
        "num_partly_measured": int(partly.sum()),
        **_correlations(*columns),
        **more_than_count(*columns),
        "per_seed": {name: mean_std([of[name][0] for of in single]) for name in CORRELATIONS},
        "all_classes": {"num_classes": int(counted.sum())} | {n: everywhere[n] for n in COUNTS},
    }


def _correlations(
    ap: np.ndarray, information: np.ndarray, count: np.ndarray
) -> dict[str, list[float]]:
    found = class_correlations(ap, information, count)
    nothing = {"pearson": [math.nan] * 3, "spearman": [math.nan] * 3}
    values = {
        f"{kind}_{name}": found.get(name, nothing)[kind]
        for name in ("information", "instance_count", "log_instance_count")
        for kind in ("pearson", "spearman")
    }
    values["partial_information"] = partial_spearman(ap, information, np.log(count))
    values["partial_log_instance_count"] = partial_spearman(ap, np.log(count), information)
    return {name: values[name] for name in CORRELATIONS}


def more_than_count(
    ap: np.ndarray,
    information: np.ndarray,
    count: np.ndarray,
    *,
    draws: int = DRAWS,
    rng_seed: int = 0,
) -> dict[str, list[float]]:
    """Whether information goes along with AP more than the count does.

    Args:
        ap, information, count: (N,) finite, the count positive.

    Returns:
        For each of MORE_THAN_COUNT [value, low, high]: the magnitude of the correlation of AP with
        information less that with the count (of Spearman), or with its log (of Pearson). The 95%
        interval is by bootstrap over the classes, both correlations of the same draw. NaN for fewer
        than four classes, or where one of the three is constant.
    """
    columns = np.array([ap, information, np.log(count)])  # (3, N)
    n = columns.shape[1]
    if n < 4 or (np.ptp(columns, axis=1) == 0).any():
        return {name: [math.nan] * 3 for name in MORE_THAN_COUNT}
    rng, block = np.random.default_rng(rng_seed), max(1, BLOCK // n)
    found = [
        _more(columns[:, rng.integers(0, n, (min(block, draws - start), n))])
        for start in range(0, draws, block)
    ]
    low, high = np.nanpercentile(np.concatenate(found, axis=1), [2.5, 97.5], axis=1)
    value = _more(columns[:, None])[:, 0]
    return {
        name: [float(value[i]), float(low[i]), float(high[i])]
        for i, name in enumerate(MORE_THAN_COUNT)
    }


def _more(columns: np.ndarray) -> np.ndarray:
    """(3, draws, N) -> (2, draws): of Spearman and of Pearson."""
    ranks = stats.rankdata(columns, axis=-1)
    return np.array([_strength(c[0], c[1]) - _strength(c[0], c[2]) for c in (ranks, columns)])


def _strength(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(draws, N) twice -> (draws,) magnitude of Pearson's correlation, NaN of a constant."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    product = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    product[product < 1e-12] = math.nan
    return np.abs((x * y).sum(axis=-1)) / product
