"""Statistics of runs that differ in the classification loss and in the seed.

Methods are compared on the same classes and on the same seeds. All AP is in %, and what has no
value is NaN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from igam_d2.class_statistics import Z_95
from igam_d2.errors import InputError
from study.records import METRICS, RunRecord, select

__all__ = [
    "DRAWS",
    "PairedDifference",
    "bootstrap_interval",
    "class_differences",
    "class_means",
    "holm",
    "mean_std",
    "of_one_method",
    "paired_difference",
    "partial_spearman",
    "share_interval",
    "summary",
    "t_interval",
]

DRAWS = 10_000  # of the bootstrap
MIN_SEEDS = 3  # below, an interval over the seeds says next to nothing


# --- a method


def mean_std(values: Sequence[float]) -> dict[str, Any]:
    """`values`, their `mean`, and their `std` with n - 1; NaN if one of them is, or of one seed."""
    values = [float(value) for value in values]
    return {
        "values": values,
        "mean": float(np.mean(values)) if values else math.nan,
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
    }


def summary(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Of the runs of one method: `seeds`, and :func:`mean_std` over them of each of METRICS."""
    runs = of_one_method(records)
    metrics = {name: mean_std([run.metrics[name] for run in runs]) for name in METRICS}
    return {"seeds": [run.seed for run in runs], "metrics": metrics}


def class_means(records: Sequence[RunRecord]) -> tuple[np.ndarray, np.ndarray]:
    """(K,) AP and (K,) information of the runs of one method, means over the seeds.

    NaN for a class of which not all of the runs know it: means over other seeds do not compare.
    """
    runs = of_one_method(records)
    means = (np.mean([getattr(r, of) for r in runs], axis=0) for of in ("class_ap", "information"))
    return tuple(means)


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> list[float]:
    """Spearman's correlation of x and y, given a third quantity of the K classes.

    (rho_xy - rho_xz rho_yz) / sqrt((1 - rho_xz²)(1 - rho_yz²)), z being `given`: Pearson's
    correlation of what is left of the ranks of x and of y after a linear regression on those of z.

    Args:
        x, y, given: (K,); a class where one of them is not finite is left out.

    Returns:
        [value, low, high] with the 95% interval by Fisher's transformation, with the variance of
        Bonett and Wright (2000), (1 + r²/2) / (n - 3), and n less by one for the given quantity.
        NaN for fewer than four classes, and where `given` says all of x or of y; the interval needs
        five classes.
    """
    columns = np.array([x, y, given], dtype=np.float64)
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    n = columns.shape[1]
    if n < 4 or (np.ptp(columns, axis=1) == 0).any():
        return [math.nan] * 3
    rho = np.corrcoef(stats.rankdata(columns, axis=1))
    left = (1 - rho[0, 2] ** 2) * (1 - rho[1, 2] ** 2)
    if left < 1e-12:
        return [math.nan] * 3
    r = float(np.clip((rho[0, 1] - rho[0, 2] * rho[1, 2]) / math.sqrt(left), -1, 1))
    if n < 5:
        return [r, math.nan, math.nan]
    if abs(r) > 1 - 1e-12:
        return [r, r, r]
    z, half = math.atanh(r), Z_95 * math.sqrt((1 + r**2 / 2) / (n - 4))
    return [r, math.tanh(z - half), math.tanh(z + half)]


# --- one method against another


@dataclass(frozen=True)
class PairedDifference:
    """The AP of a method less that of a baseline, in percentage points.

    Attributes:
        seeds: that both have; `values` are the differences of each.
        mean, std: over the seeds; NaN for the std of a single one.
        num_classes: compared, with ground truth.
        class_interval: 95%, by bootstrap over the classes of the mean over the seeds: would it be
            so with other classes?
        seed_interval: 95%, by Student's t over the seeds: would it be so if trained again?
        p_value: two-sided, of the t-test over the seeds that the mean is zero; NaN below three.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    std: float
    num_classes: int
    class_interval: tuple[float, float]
    seed_interval: tuple[float, float]
    p_value: float

    @property
    def beyond_noise(self) -> bool:
        """Whether both intervals exclude zero, with at least three seeds.

        This is for one comparison by itself; of many, :func:`holm` takes the number into account.
        """
        intervals = (self.class_interval, self.seed_interval)
        return len(self.seeds) >= MIN_SEEDS and all(low > 0 or high < 0 for low, high in intervals)


def class_differences(
    runs: Sequence[RunRecord], baseline_runs: Sequence[RunRecord]
) -> tuple[tuple[int, ...], np.ndarray]:
    """The S seeds that both have, and (S, K) AP of each class less the baseline's.

    Args:
        runs, baseline_runs: of one method each.

    Raises:
        InputError: if they are of different classes.
    """
    runs, baseline_runs = of_one_method(runs), of_one_method(baseline_runs)
    theirs = {run.seed: run for run in baseline_runs}
    pairs = [(run, theirs[run.seed]) for run in runs if run.seed in theirs]
    if any(a.class_names != b.class_names for a, b in pairs):
        raise InputError(
            f"{runs[0].method} and {baseline_runs[0].method} were evaluated on different classes."
        )
    rows = [a.class_ap - b.class_ap for a, b in pairs]
    return tuple(run.seed for run, _ in pairs), np.array(rows).reshape(-1, len(runs[0].class_names))


def paired_difference(
    runs: Sequence[RunRecord],
    baseline_runs: Sequence[RunRecord],
    classes: np.ndarray | None = None,
    *,
    draws: int = DRAWS,
    rng_seed: int = 0,
) -> PairedDifference | None:
    """A method against a baseline.

    For each seed that both have, the difference is the mean over the classes of AP less AP. Classes
    without ground truth in one of the runs are left out of all.

    Args:
        runs, baseline_runs: of one method each.
        classes: (K,) bool, those to compare, as :func:`study.records.metric_classes` says; None is
            all.

    Returns:
        None if there is no seed that both have, or none of these classes has ground truth.
    """
    seeds, of_classes = class_differences(runs, baseline_runs)
    if not seeds:
        return None
    known = np.isfinite(of_classes).all(axis=0)
    if classes is not None:
        known &= classes
    if not known.any():
        return None
    of_classes = of_classes[:, known]
    of_seeds = mean_std(of_classes.mean(axis=1))
    return PairedDifference(
        seeds=seeds,
        values=tuple(of_seeds["values"]),
        mean=of_seeds["mean"],
        std=of_seeds["std"],
        num_classes=of_classes.shape[1],
        class_interval=bootstrap_interval(of_classes.mean(axis=0), draws, rng_seed),
        seed_interval=t_interval(of_seeds["values"]),
        p_value=_p_value(of_seeds["values"]),
    )


def bootstrap_interval(
    values: np.ndarray, draws: int = DRAWS, rng_seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean of (N,) values; NaN for fewer than two.

    Of a few values, as of few rare classes, it is too narrow: of fewer than 20, it misses the truth
    in 6 to 11% of cases rather than in 5%.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(rng_seed)
    means = np.asarray(values)[rng.integers(0, n, (draws, n))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def share_interval(
    part: np.ndarray, total: np.ndarray, draws: int = DRAWS, rng_seed: int = 0
) -> list[float]:
    """The share that the mean of `part` has in the mean of `total`, with its 95% interval.

    Args:
        part, total: (N,), of the same classes.

    Returns:
        [value, low, high], the interval by bootstrap over the classes. NaN where the total is not
        positive; the interval is NaN where that of the total reaches zero, which a share of could
        be anything.
    """
    n = len(total)
    if n == 0 or not total.mean() > 0:
        return [math.nan] * 3
    value = float(part.mean() / total.mean())
    drawn = np.random.default_rng(rng_seed).integers(0, n, (draws, n))
    totals = total[drawn].mean(axis=1)
    if n < 2 or np.percentile(totals, 2.5) <= 0:
        return [value, math.nan, math.nan]
    shares = part[drawn].mean(axis=1)[totals > 0] / totals[totals > 0]
    low, high = np.percentile(shares, [2.5, 97.5])
    return [value, float(low), float(high)]


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean by Student's t; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean - half, mean + half


def _p_value(values: Sequence[float]) -> float:
    if len(values) < MIN_SEEDS:
        return math.nan
    if np.ptp(values) == 0:  # to the last bit: the same runs, or a constructed case
        return 1.0 if values[0] == 0 else 0.0
    return float(stats.ttest_1samp(values, 0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values of several comparisons; one below .05 holds among all of them.

    Those that are NaN stay so, and are not counted.
    """
    known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    adjusted, largest = {name: math.nan for name in p_values}, 0.0
    for i, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - i) * p))
        adjusted[name] = largest
    return adjusted


def of_one_method(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records, by seed.

    Raises:
        InputError: if they are not of one method and one kind.
    """
    runs = select(records)
    if len({run.method for run in runs}) != 1:
        found = ", ".join(sorted({run.method for run in runs})) or "none"
        raise InputError(f"The runs of one method are needed, these are of: {found}.")
    return runs
