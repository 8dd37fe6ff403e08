"""Tables of what one method does that another does not. As in :mod:`study.tables`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from igam_d2.report.style import signed
from study.cells import (
    KINDS,
    Table,
    as_json,
    difference_cell,
    interval_cell,
    method_label,
    of_kind,
    seeds_cell,
    table,
)
from study.records import CLASS_METRICS, RunRecord, metric_classes, select
from study.stats import (
    PairedDifference,
    class_differences,
    holm,
    paired_difference,
    share_interval,
)

__all__ = [
    "APR2",
    "INTERVALS",
    "adjusted",
    "agreement_table",
    "decomposition_table",
    "differences",
    "differences_table",
]

APR2 = (
    "APr2: APr without the classes of one training instance, which has no covariance, so that they "
    "have neither an information amount nor a margin. "
)
INTERVALS = (
    "the mean; below it the 95% interval by bootstrap over the classes, and below that the 95% "
    "interval by Student's t over the seeds. **Bold**: beyond noise, both intervals exclude 0, "
    "with at least 3 seeds. "
)

Differences = Mapping[str, Mapping[str, PairedDifference | None]]  # method -> metric -> difference


def differences(
    records: Sequence[RunRecord],
    methods: Sequence[str],
    baseline: str,
    kind: str | None = None,
    metrics: Sequence[str] = CLASS_METRICS,
) -> dict[str, dict[str, PairedDifference | None]]:
    """For each method but the baseline and each of CLASS_METRICS what paired_difference says."""
    theirs = select(records, baseline, kind)
    return {
        method: _over_metrics(select(records, method, kind), theirs, metrics)
        for method in methods
        if method != baseline
    }


def _over_metrics(
    runs: Sequence[RunRecord], theirs: Sequence[RunRecord], metrics: Sequence[str] = CLASS_METRICS
) -> dict[str, PairedDifference | None]:
    if not runs or not theirs:
        return dict.fromkeys(metrics)
    return {m: paired_difference(runs, theirs, metric_classes(runs[0], m)) for m in metrics}


def adjusted(found: Differences, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """metric -> method -> Holm's adjusted p-value, of all methods that are compared in a metric."""
    return {
        metric: holm({m: of[metric].p_value for m, of in found.items() if of[metric]})
        for metric in metrics
    }


def differences_table(
    records: Sequence[RunRecord],
    methods: Sequence[str],
    baseline: str,
    kind: str | None = None,
    *,
    baseline_label: str | None = None,
) -> Table:
    """AP, APr, APr2, APc and APf of the methods less those of the baseline, with both intervals.

    Args:
        baseline: any method, as the chosen reading beside the others.
        baseline_label: what the caption calls it, None being its name.
    """
    found = differences(records, methods, baseline, kind)
    p_holm = adjusted(found, CLASS_METRICS)
    rows, content = [], []
    for method, of in found.items():
        p_values = {metric: p_holm[metric].get(method, math.nan) for metric in CLASS_METRICS}
        record: dict[str, Any] = {"method": method, "label": method_label(method)}
        record["differences"] = {
            metric: None if d is None else as_json(d, p_values[metric]) for metric, d in of.items()
        }
        content.append(record)
        seeds = {seed for d in of.values() if d for seed in d.seeds}
        cells = [difference_cell(d, p_values[metric]) for metric, d in of.items()]
        rows.append([record["label"], seeds_cell(seeds), *cells])
    compared = sum(any(of.values()) for of in found.values())
    tested = {
        metric: sum(not math.isnan(p) for p in p_holm[metric].values()) for metric in CLASS_METRICS
    }
    total = sum(d is not None for of in found.values() for d in of.values())
    label = baseline_label or method_label(baseline)
    caption = (
        f"{of_kind(kind)}Difference to {label} in percentage points (above 0: better than it), "
        f"over the seeds that both have: {INTERVALS}{_narrow(found.values())}{APR2}"
        f"Methods compared with one baseline: {compared}; comparisons in all: {total}. A 95% "
        "interval by itself leaves out 0 by chance in about 1 of 20. "
    )
    if any(tested.values()):
        caption += (
            "†: p < .05 by the t-test over the seeds after Holm's adjustment for the "
            f"{max(tested.values())} comparisons of a column."
        )
    else:
        caption += "With fewer than three seeds there is no test over the seeds."
    extra = {"kind": kind, "baseline": baseline, "baseline_label": label}
    extra |= {"num_comparisons": total, "num_comparisons_of_holm": tested, "methods": content}
    header = ("method", "seeds", *(f"Δ{metric}" for metric in CLASS_METRICS))
    return table(header, rows, caption, extra)


def _narrow(found: Sequence[Mapping[str, PairedDifference | None]]) -> str:
    """How many classes there are, and what follows from it for the bootstrap."""
    numbers = {m: max((of[m].num_classes for of in found if of[m]), default=0)
               for m in CLASS_METRICS}  # fmt: skip
    text = ", ".join(f"{metric} {n}" for metric, n in numbers.items() if n)
    if not text:
        return ""
    text = f"Classes: {text}. "
    if min(n for n in numbers.values() if n) < 30:
        text += (
            "Over few classes the bootstrap's interval is too narrow: over fewer than 20 it misses "
            "the truth in 6 to 11% of cases rather than in 5%. "
        )
    return text


def decomposition_table(
    records: Sequence[RunRecord], softmax: str, cosine: str, igam: str, kind: str | None = None
) -> Table:
    """From softmax CE to cosine CE, and from there to IGAM: what each step makes, over the seeds
    that all three have."""
    runs = {method: select(records, method, kind) for method in (softmax, cosine, igam)}
    seeds = set.intersection(*({run.seed for run in of} for of in runs.values()))
    runs = {m: [run for run in of if run.seed in seeds] for m, of in runs.items()}
    steps = {"classifier": (cosine, softmax), "margins": (igam, cosine), "total": (igam, softmax)}
    found = {name: _over_metrics(runs[a], runs[b]) for name, (a, b) in steps.items()}
    rows, content = [], {}
    for metric in CLASS_METRICS:
        of_steps = {name: of[metric] for name, of in found.items()}
        share = [math.nan] * 3
        if seeds and of_steps["total"] is not None:
            part, total = (
                class_differences(runs[method], runs[softmax])[1].mean(axis=0)
                for method in (cosine, igam)
            )
            chosen = metric_classes(runs[igam][0], metric) & np.isfinite(part) & np.isfinite(total)
            share = share_interval(part[chosen], total[chosen])
        content[metric] = {name: as_json(d) if d else None for name, d in of_steps.items()}
        content[metric]["share_of_classifier"] = share
        cells = [difference_cell(d) for d in of_steps.values()]
        rows.append([metric, *cells, interval_cell(share, lambda value: f"{100 * value:.0f}%")])
    names = [method_label(method) for method in (softmax, cosine, igam)]
    caption = (
        f"{of_kind(kind)}{names[0]} (1), {names[1]} (2) and {names[2]} (3): differences in "
        f"percentage points over the seeds that all have ({seeds_cell(seeds)}), {INTERVALS}"
        f"{_narrow(found.values())}"
        "Share: of the total that the cosine classifier alone makes, (2 - 1) / (3 - 1), where the "
        "total is above 0; below it the 95% interval by bootstrap over the classes (not over the "
        "seeds), where that of the total is above 0, too. Below 0% the classifier alone takes "
        f"away, above 100% the margins do. {APR2}Each comparison by itself: no adjustment for "
        "their number."
    )
    header = (
        "metric", "cosine classifier, 2 - 1", "margins, 3 - 2", "total, 3 - 1",
        "share of the classifier",
    )  # fmt: skip
    extra = {"kind": kind, "methods": {"softmax": softmax, "cosine": cosine, "igam": igam}}
    extra |= {"seeds": sorted(seeds), "metrics": content}
    return table(header, rows, caption, extra)


def agreement_table(records: Sequence[RunRecord], methods: Sequence[str], baseline: str) -> Table:
    """Differences to the baseline of whole detectors beside those of second stages, of the methods
    that are in both kinds."""
    of_kinds = {kind: differences(records, methods, baseline, kind) for kind in KINDS}
    rows, content, agree = [], [], []
    for method in of_kinds["full"]:
        for metric in CLASS_METRICS:
            both = {kind: found[method][metric] for kind, found in of_kinds.items()}
            if not all(both.values()):
                continue
            same = np.sign(both["full"].mean) == np.sign(both["cached"].mean)
            agree.append(bool(same))
            content.append(
                {"method": method, "label": method_label(method), "metric": metric}
                | {kind: as_json(d) for kind, d in both.items()}
                | {"same_sign": bool(same)}
            )
            cells = [part for d in both.values() for part in (seeds_cell(d.seeds),
                                                              difference_cell(d))]  # fmt: skip
            rows.append([f"{method_label(method)}: {metric}", *cells, "yes" if same else "no"])
    means = [[row[kind]["mean"] for row in content] for kind in KINDS]
    largest = max((abs(a - b) for a, b in zip(*means, strict=True)), default=math.nan)
    caption = (
        f"Difference to {method_label(baseline)} in percentage points, of whole detectors and of "
        f"second stages on cached RoI features, each paired by seed: {INTERVALS}{APR2}"
        f"Of {len(agree)} differences, {sum(agree)} have the same sign in both"
    )
    if agree:
        caption += f"; at most they are {signed(largest).strip('+')} apart"
    extra = {"baseline": baseline, "num_compared": len(agree), "num_same_sign": sum(agree)}
    header = ("method: metric", "seeds, whole", "whole detectors", "seeds, second stages",
              "second stages", "same sign")  # fmt: skip
    return table(header, rows, f"{caption}.", extra | {"rows": content})
