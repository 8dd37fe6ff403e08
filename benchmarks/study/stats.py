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

from igam_d2.class_statistics import Z_95, class_correlations
from igam_d2.errors import InputError
from study.records import (
    METRICS,
    Margins,
    RunRecord,
    load_record,
    load_records,
    select,
)

__all__ = [
    "DRAWS",
    "GROUPS",
    "METRICS",
    "Margins",
    "PairedDifference",
    "RunRecord",
    "best_method",
    "bootstrap_interval",
    "class_means",
    "correlations",
    "holm",
    "load_record",
    "load_records",
    "mean_std",
    "paired_difference",
    "partial_spearman",
    "select",
    "summary",
    "t_interval",
]

GROUPS = {"AP": None, "APr": "r", "APc": "c", "APf": "f"}  # metric -> key of its classes
DRAWS = 10_000  # of the bootstrap
CORRELATIONS = (
    "pearson_information",
    "spearman_information",
    "pearson_instance_count",
    "pearson_log_instance_count",
    "spearman_instance_count",
    "partial_information",
    "partial_log_instance_count",
)


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
    runs = _of_one_method(records)
    metrics = {name: mean_std([run.metrics[name] for run in runs]) for name in METRICS}
    return {"seeds": [run.seed for run in runs], "metrics": metrics}


def class_means(records: Sequence[RunRecord]) -> tuple[np.ndarray, np.ndarray]:
    """(K,) AP and (K,) information of the runs of one method, means over the seeds.

    Information is averaged over the runs that have measured it of the class.
    """
    runs = _of_one_method(records)
    bits = np.array([run.information for run in runs])
    known = np.isfinite(bits)
    total = np.where(known, bits, 0).sum(axis=0)
    mean = np.full(bits.shape[1], math.nan)
    np.divide(total, known.sum(axis=0), out=mean, where=known.any(axis=0))
    return np.mean([run.class_ap for run in runs], axis=0), mean


def best_method(
    records: Sequence[RunRecord],
    methods: Sequence[str],
    metric: str = "AP",
    kind: str | None = None,
) -> str:
    """The method with the highest mean over the seeds that all of them have; the first of equals.

    To be asked of the selection split alone: what it chooses is then reported on another.

    Raises:
        InputError: if a method has no runs, the methods no seed in common, or a run no such metric.
    """
    runs = {method: select(records, method, kind) for method in methods}
    for method in methods:
        if not runs[method]:
            raise InputError(f"There is no evaluated run of {method}: nothing can be chosen yet.")
    seeds = set.intersection(*({run.seed for run in of} for of in runs.values()))
    if not seeds:
        raise InputError(f"{', '.join(methods)} have no seed in common: run them with the same.")
    means = {
        method: float(np.mean([run.metrics[metric] for run in of if run.seed in seeds]))
        for method, of in runs.items()
    }
    if any(math.isnan(mean) for mean in means.values()):
        raise InputError(f"A run of {', '.join(methods)} has no {metric}: choose by another.")
    return max(methods, key=lambda method: means[method])


# --- AP and what may explain it


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


def correlations(records: Sequence[RunRecord]) -> dict[str, Any]:
    """How the AP of the classes goes along with information and with training instances.

    Args:
        records: of one method. AP and information are averaged over the seeds.

    Returns:
        `seeds`, `num_classes`, and for each of CORRELATIONS [value, low, high] with the 95%
        interval over classes. Partial ones are Spearman's, of AP with information given the log of
        the count, and the other way round; ranks do not change under a logarithm, so
        that Spearman's with the count and with its log are one. `per_seed` has :func:`mean_std` of
        the values of the single runs.
    """
    runs = _of_one_method(records)
    ap, information = class_means(runs)
    values, num_classes = _correlations(ap, information, runs[0].instance_count)
    single = [_correlations(r.class_ap, r.information, r.instance_count)[0] for r in runs]
    return {
        "seeds": [run.seed for run in runs],
        "num_classes": num_classes,
        **values,
        "per_seed": {name: mean_std([of[name][0] for of in single]) for name in CORRELATIONS},
    }


def _correlations(
    ap: np.ndarray, information: np.ndarray, count: np.ndarray
) -> tuple[dict[str, list[float]], int]:
    found = class_correlations(ap, information, count)
    nothing = {"pearson": [math.nan] * 3, "spearman": [math.nan] * 3, "num_classes": 0}
    values = {
        f"{kind}_{name}": (found.get(name) or nothing)[kind]
        for name in ("information", "instance_count", "log_instance_count")
        for kind in ("pearson", "spearman")
    }
    log_count = np.log(count, out=np.full(len(count), math.nan), where=count > 0)
    values["partial_information"] = partial_spearman(ap, information, log_count)
    values["partial_log_instance_count"] = partial_spearman(ap, log_count, information)
    num_classes = max((of["num_classes"] for of in found.values()), default=0)
    return {name: values[name] for name in CORRELATIONS}, num_classes


# --- one method against another


@dataclass(frozen=True)
class PairedDifference:
    """The AP of a method less that of a baseline, in percentage points.

    Attributes:
        seeds: that both have; `values` are the differences of each.
        mean, std: over the seeds; NaN for the std of a single one.
        num_classes: of the group, with ground truth.
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
        """Whether both intervals exclude zero.

        Of a single seed the second is not known: then it is not beyond noise. This is for one
        comparison by itself; of many, :func:`holm` takes the number into account.
        """
        return all(low > 0 or high < 0 for low, high in (self.class_interval, self.seed_interval))


def paired_difference(
    runs: Sequence[RunRecord],
    baseline_runs: Sequence[RunRecord],
    group: str | None = None,
    *,
    draws: int = DRAWS,
    rng_seed: int = 0,
) -> PairedDifference | None:
    """A method against a baseline, on the classes of a group or on all.

    For each seed that both have, the difference is the mean over the classes of AP less AP. Classes
    without ground truth in one of the runs are left out of all.

    Args:
        runs, baseline_runs: of one method each.
        group: key of the classes, None for all.

    Returns:
        None if there is no seed that both have, or no class of the group with ground truth.
    """
    runs, baseline_runs = _of_one_method(runs), _of_one_method(baseline_runs)
    theirs = {run.seed: run for run in baseline_runs}
    pairs = [(run, theirs[run.seed]) for run in runs if run.seed in theirs]
    if not pairs:
        return None
    if any(a.class_names != b.class_names for a, b in pairs):
        raise InputError(
            f"{runs[0].method} and {baseline_runs[0].method} were evaluated on different classes."
        )
    of_classes = np.array([a.class_ap - b.class_ap for a, b in pairs])  # (S, K)
    known = np.isfinite(of_classes).all(axis=0)
    if group is not None:
        known &= np.array([key == group for key in runs[0].class_groups])
    if not known.any():
        return None
    of_classes = of_classes[:, known]
    of_seeds = mean_std(of_classes.mean(axis=1))
    return PairedDifference(
        seeds=tuple(run.seed for run, _ in pairs),
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

    Of a few values, as of few rare classes, it is somewhat too narrow.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(rng_seed)
    means = np.asarray(values)[rng.integers(0, n, (draws, n))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean by Student's t; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean - half, mean + half


def _p_value(values: Sequence[float]) -> float:
    if len(values) < 3:
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


def _of_one_method(records: Sequence[RunRecord]) -> list[RunRecord]:
    runs = select(records)
    if len({run.method for run in runs}) != 1:
        found = ", ".join(sorted({run.method for run in runs})) or "none"
        raise InputError(f"The runs of one method are needed, these are of: {found}.")
    return runs
