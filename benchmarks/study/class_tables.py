"""Tables of what the classes tell: what their AP goes along with, and which of them gain. As in
:mod:`study.tables`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from study.cells import (
    RHO,
    STATISTICS,
    Table,
    as_json,
    difference_cell,
    interval_cell,
    method_label,
    of_kind,
    seeds_cell,
    table,
)
from study.comparison_tables import INTERVALS
from study.correlations import CORRELATIONS, MORE_THAN_COUNT, correlations
from study.records import RunRecord, select
from study.stats import class_differences, class_means, paired_difference

__all__ = ["correlations_table", "gain_by_information"]


def correlations_table(
    records: Sequence[RunRecord], methods: Sequence[str], kind: str | None = None
) -> Table:
    """How the AP of the classes goes along with information and with training instances."""
    rows, content = [], []
    for method in methods:
        runs = select(records, method, kind)
        found = correlations(runs) if runs else {"seeds": [], "num_classes": 0, "shrinkages": []}
        content.append({"method": method, "label": method_label(method), **found})
        shrinkages = ", ".join(STATISTICS.get(name, name) for name in found["shrinkages"])
        cells = [interval_cell(found.get(name)) for name in (*CORRELATIONS, *MORE_THAN_COUNT)]
        row = [method_label(method), seeds_cell(found["seeds"]), shrinkages or "-"]
        rows.append([*row, str(found["num_classes"]), *cells])
    partly = max((of.get("num_partly_measured", 0) for of in content), default=0)
    caption = (
        f"{of_kind(kind)}Correlations of the classes' AP (mean over the seeds) with information "
        f"amount and with training instances; r: Pearson, {RHO}: Spearman, below it the 95% "
        "interval over the classes. All numbers of a row are of the same classes, those with an "
        "information amount in every seed: of one training instance there is none"
        + (f", and of up to {partly} more not in every seed. " if partly else ". ")
        + "Information is each run's own, of the last refresh of its training (running epoch, "
        "augmented images, weights that move), with the shrinkage that is given: rows of different "
        "shrinkage do not compare. Given log count, given information: partial correlations, "
        f"{RHO} of AP and information given the log of the count, "
        f"({RHO}_xy - {RHO}_xz {RHO}_yz) / sqrt((1 - {RHO}_xz²)(1 - {RHO}_yz²)), and of AP "
        f"and the log of the count given information. {RHO} of the count and of its log are one. "
        "The last two: the magnitude of the correlation with information less that with the count, "
        "above 0 where information goes along with AP more, with whatever sign; 95% interval by "
        "bootstrap over the classes, both correlations of the same draw."
    )
    header = (
        "method", "seeds", "shrinkage", "classes", "information r", f"information {RHO}", "count r",
        "log count r", f"count {RHO}", f"information {RHO}, given log count",
        f"log count {RHO}, given information", f"abs. {RHO}: information less count",
        "abs. r: information less log count",
    )  # fmt: skip
    return table(header, rows, caption, {"kind": kind, "methods": content})


def gain_by_information(
    records: Sequence[RunRecord],
    method: str,
    baseline: str,
    kind: str | None = None,
    parts: int = 3,
) -> Table:
    """For which classes a method does more than the baseline: AP less the baseline's, of the parts
    of the classes by the information amount that the baseline measured, and of the groups."""
    runs, theirs = select(records, method, kind), select(records, baseline, kind)
    rows, content = [], []
    if runs and theirs:
        seeds, of_classes = class_differences(runs, theirs)
        information, counts = class_means(theirs)[1], theirs[0].instance_count
        compared = np.isfinite(of_classes).all(axis=0) & bool(seeds)
        for name, classes in _parts(theirs[0], information, compared, parts).items():
            d = paired_difference(runs, theirs, classes)
            if d is None:
                continue
            bits, count = information[classes & compared], counts[classes & compared]
            record: dict[str, Any] = {"classes": name, "information": _range(bits)}
            record |= {"instance_count": _range(count), "difference": as_json(d)}
            content.append(record)
            ranges = (_range_cell(record["information"], ".1f"),
                      _range_cell(record["instance_count"], ",.0f"))  # fmt: skip
            rows.append([name, str(d.num_classes), *ranges, difference_cell(d)])
    seeds = content[0]["difference"]["seeds"] if content else []
    caption = (
        f"{of_kind(kind)}AP of {method_label(method)} less that of {method_label(baseline)} in "
        f"percentage points, over the seeds that both have ({seeds_cell(seeds)}): {INTERVALS}Each "
        "row by itself: no adjustment for their number; of fewer than 20 classes, the bootstrap's "
        "interval is too narrow. Information: the amounts at the end of the baseline's training "
        f"(mean over its seeds), by which the classes are cut into {parts} parts of equal size; "
        "median and range over the classes of the row."
    )
    extra = {"kind": kind, "method": method, "baseline": baseline, "rows": content}
    header = ("classes", "number", "information (bits)", "training instances", "ΔAP")
    return table(header, rows, caption, extra)


def _parts(
    run: RunRecord, information: np.ndarray, compared: np.ndarray, parts: int
) -> dict[str, np.ndarray]:
    """name -> (K,) bool."""
    found = {"all": np.full(len(information), True)}
    order = np.argsort(information, kind="stable")
    order = order[(np.isfinite(information) & compared)[order]]
    names = {2: ("least", "most"), 3: ("least", "middle", "most")}.get(parts)
    for i, of in enumerate(np.array_split(order, parts)):
        name = f"{names[i]} information" if names else f"information, part {i + 1} of {parts}"
        found[name] = np.isin(np.arange(len(information)), of)
    found["no information amount"] = ~np.isfinite(information)
    for key, name in run.groups.items():
        found[name] = np.array([group == key for group in run.class_groups])
    return found


def _range(values: np.ndarray) -> dict[str, float] | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    names = ("median", "lowest", "highest")
    return {n: float(f(known)) for n, f in zip(names, (np.median, np.min, np.max), strict=True)}


def _range_cell(of: dict[str, float] | None, form: str) -> str:
    if of is None:
        return "-"
    return f"{of['median']:{form}}<br>{of['lowest']:{form}} to {of['highest']:{form}}"
