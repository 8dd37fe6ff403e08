"""Tables of a benchmark of classification losses: markdown, and the same numbers for JSON.

Every table is (markdown, content): the table with its caption below, and a dictionary for
:func:`igam_d2.files.write_json`, which writes the NaN of what is not known as null. A method
without a run has "-" in every cell. `kind` chooses the runs of that kind; None is for records that
are all of one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from igam_d2.report.style import signed
from study.cells import (
    RHO,
    STATISTICS,
    Table,
    as_json,
    axes_of,
    correlation_cell,
    difference_cell,
    markdown,
    mean_cell,
    method_label,
    short_cell,
    small_cell,
    table,
)
from study.records import RunRecord, select
from study.stats import (
    CORRELATIONS,
    GROUPS,
    PairedDifference,
    correlations,
    holm,
    mean_std,
    paired_difference,
    summary,
)

__all__ = [
    "correlations_table",
    "differences",
    "differences_table",
    "grid_table",
    "main_table",
    "margins_table",
    "sweep_table",
]

SHOWN = ("AP", "APr", "APc", "APf", "bias std")


def main_table(
    records: Sequence[RunRecord], methods: Sequence[str], kind: str | None = None
) -> Table:
    """AP, APr, APc, APf and bias std of the methods, in their order."""
    rows, content = [], []
    for method in methods:
        runs = select(records, method, kind)
        record = {"method": method, "label": method_label(method)}
        record |= summary(runs) if runs else {"seeds": [], "metrics": {}}
        content.append(record)
        cells = [mean_cell(record["metrics"].get(name)) for name in SHOWN]
        rows.append([record["label"], str(len(runs)), *cells])
    caption = (
        "Box AP in %, mean ± standard deviation over the seeds, whose number is given. "
        "bias std: standard deviation of the AP over the classes, in percentage points."
    )
    return table(("method", "seeds", *SHOWN), rows, caption, {"kind": kind, "methods": content})


def differences(
    records: Sequence[RunRecord],
    methods: Sequence[str],
    baseline: str,
    kind: str | None = None,
    metrics: Sequence[str] = tuple(GROUPS),
) -> dict[str, dict[str, PairedDifference | None]]:
    """For each method but the baseline and each metric of GROUPS what paired_difference says."""
    theirs = select(records, baseline, kind)
    found: dict[str, dict[str, PairedDifference | None]] = {}
    for method in methods:
        if method == baseline:
            continue
        runs = select(records, method, kind)
        found[method] = {
            metric: paired_difference(runs, theirs, GROUPS[metric]) if runs and theirs else None
            for metric in metrics
        }
    return found


def differences_table(
    records: Sequence[RunRecord],
    methods: Sequence[str],
    baseline: str,
    kind: str | None = None,
) -> Table:
    """AP, APr, APc and APf of the methods less those of the baseline, with both intervals."""
    found = differences(records, methods, baseline, kind)
    adjusted = {
        metric: holm({m: of[metric].p_value for m, of in found.items() if of[metric]})
        for metric in GROUPS
    }
    rows, content = [], []
    for method, of in found.items():
        p_values = {metric: adjusted[metric].get(method, math.nan) for metric in GROUPS}
        record = {"method": method, "label": method_label(method)}
        record["differences"] = {
            metric: None if d is None else as_json(d, p_values[metric]) for metric, d in of.items()
        }
        content.append(record)
        seeds = max((len(d.seeds) for d in of.values() if d), default=0)
        cells = [difference_cell(d, p_values[metric]) for metric, d in of.items()]
        rows.append([record["label"], str(seeds), *cells])
    compared = sum(any(of.values()) for of in found.values())
    tested = {
        metric: sum(not math.isnan(p) for p in adjusted[metric].values()) for metric in GROUPS
    }
    total = sum(d is not None for of in found.values() for d in of.values())
    caption = (
        f"Difference to {method_label(baseline)} in percentage points, paired by seed: the mean; "
        "below it the 95% interval by bootstrap over the classes, and below that the 95% interval "
        "by Student's t over the seeds. **Bold**: beyond noise, both intervals exclude 0. "
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
    extra = {"kind": kind, "baseline": baseline, "num_comparisons": total}
    extra |= {"num_comparisons_of_holm": tested, "methods": content}
    header = ("method", "seeds", *(f"Δ{metric}" for metric in GROUPS))
    return table(header, rows, caption, extra)


def correlations_table(
    records: Sequence[RunRecord], methods: Sequence[str], kind: str | None = None
) -> Table:
    """How the AP of the classes goes along with information and with training instances."""
    rows, content = [], []
    for method in methods:
        runs = select(records, method, kind)
        found = correlations(runs) if runs else {"seeds": [], "num_classes": 0}
        content.append({"method": method, "label": method_label(method), **found})
        cells = [
            correlation_cell(found.get(name), not name.startswith("pearson"))
            for name in CORRELATIONS
        ]
        rows.append([method_label(method), str(len(runs)), str(found["num_classes"]), *cells])
    caption = (
        "Correlations of the classes' AP (mean over the seeds) with information amount and with "
        f"training instances; r: Pearson, {RHO}: Spearman, below it the 95% interval over the "
        f"classes. The last two are partial: {RHO} of AP and information given the log of the "
        f"count, ({RHO}_xy - {RHO}_xz {RHO}_yz) / sqrt((1 - {RHO}_xz²)(1 - {RHO}_yz²)), and of AP "
        f"and the log of the count given information. {RHO} of the count and of its log are one."
    )
    header = (
        "method", "seeds", "classes", "information r", f"information {RHO}", "count r",
        "log count r", f"count {RHO}", f"information {RHO}, given log count",
        f"log count {RHO}, given information",
    )  # fmt: skip
    return table(header, rows, caption, {"kind": kind, "methods": content})


def grid_table(
    records: Sequence[RunRecord],
    grid: Mapping[tuple[str, str], str],
    baseline: str,
    kind: str | None = None,
) -> Table:
    """AP and APr of IGAM over reading (rows) and shrinkage (columns), and less the baseline's.

    Args:
        grid: (reading, shrinkage) -> method.
    """
    readings, shrinkages = axes_of(grid)
    found = differences(records, list(grid.values()), baseline, kind, ("AP", "APr"))
    cells: dict[str, dict[str, Any]] = {reading: {} for reading in readings}
    parts = []
    for metric in ("AP", "APr"):
        rows = []
        for reading in readings:
            row = [STATISTICS.get(reading, reading)]
            for shrinkage in shrinkages:
                method = grid.get((reading, shrinkage), "")
                runs = select(records, method, kind)
                value = summary(runs)["metrics"][metric] if runs else None
                difference = found.get(method, {}).get(metric)
                cell = cells[reading].setdefault(shrinkage, {"method": method or None})
                cell["seeds"] = [run.seed for run in runs]
                cell[metric] = value
                cell[f"{metric} difference"] = as_json(difference) if difference else None
                row.append(
                    mean_cell(value) + (f"<br>{short_cell(difference)}" if difference else "")
                )
            rows.append(row)
        header = (f"{metric}: reading", *(STATISTICS.get(name, name) for name in shrinkages))
        parts.append(markdown(header, rows))
    compared = sum(any(of.values()) for of in found.values())
    caption = (
        "Box AP and APr in %, mean ± standard deviation over the seeds; below, the difference to "
        f"{method_label(baseline)}, paired by seed. **Bold**: beyond noise, the 95% intervals over "
        f"the classes and over the seeds both exclude 0. Methods compared with one baseline: "
        f"{compared}."
    )
    content = {"kind": kind, "baseline": baseline, "caption": caption, "cells": cells}
    return "\n\n".join([*parts, caption]) + "\n", content


def margins_table(
    records: Sequence[RunRecord], methods: Sequence[str], kind: str | None = None
) -> Table:
    """The largest and the mean margin at the first and at the last refresh."""
    rows, content = [], []
    for method in methods:
        runs = [run for run in select(records, method, kind) if run.margins is not None]
        record: dict[str, Any] = {"method": method, "label": method_label(method)}
        record["seeds"] = [run.seed for run in runs]
        scales = {run.scale for run in runs}
        record["scale"] = scales.pop() if len(scales) == 1 else None
        record["sign"] = runs[0].margins.sign if runs else None
        for at, index in (("first", 0), ("last", -1)):
            for name in ("largest", "mean"):
                values = [float(getattr(run.margins, name)[index]) for run in runs]
                record[f"{at} {name}"] = mean_std(values)
            iterations = sorted({int(run.margins.iterations[index]) for run in runs})
            record[f"{at} iteration"] = iterations[0] if len(iterations) == 1 else None
        keys = [f"{at} {name}" for at in ("first", "last") for name in ("largest", "mean")]
        cells = [small_cell(record[key]) for key in keys]
        s = record["scale"]
        logit = None if s is None else mean_std([s * v for v in record["last largest"]["values"]])
        record["last largest times scale"] = logit
        at = [record["first iteration"], record["last iteration"]]
        refreshes = "-" if None in at else f"{at[0]:,} and {at[1]:,}"
        number = "-" if s is None else f"{s:g}"
        rows.append([record["label"], str(len(runs)), refreshes, *cells, number, small_cell(logit)])
        content.append(record)
    caption = (
        "Margins in radians, mean ± standard deviation over the seeds: the largest, and the mean "
        "over all ordered pairs of two classes, of which one in two has none, at the first and at "
        "the last refresh. The last column, s times the largest, bounds what a margin changes in a "
        "logit."
    )
    header = (
        "method", "seeds", "iterations", "first largest", "first mean", "last largest",
        "last mean", "s", "s times last largest",
    )  # fmt: skip
    return table(header, rows, caption, {"kind": kind, "methods": content})


def sweep_table(
    records: Sequence[RunRecord],
    series: Mapping[str, Mapping[float, str]],
    reference: Mapping[float, Mapping[str, float]] | None = None,
    reference_name: str = "published",
    kind: str | None = None,
) -> Table:
    """AP and APr over the scale s, beside values that others have published.

    Args:
        series: label -> {s: method}.
        reference: s -> {"AP": %, "APr": %}, of other data: only its shape can be compared.
    """
    reference = reference or {}
    scales = sorted({s for of in series.values() for s in of} | set(reference))
    columns: dict[str, dict[float, Any]] = {}
    for label, of in series.items():
        for metric in ("AP", "APr"):
            runs = {s: select(records, method, kind) for s, method in of.items()}
            columns[f"{label}, {metric}"] = {
                s: summary(some)["metrics"][metric] for s, some in runs.items() if some
            }
    for metric in ("AP", "APr") if reference else ():
        columns[f"{reference_name}, {metric}"] = {
            s: mean_std([of[metric]]) for s, of in reference.items() if metric in of
        }
    rows = [[f"{s:g}"] for s in scales]
    content: dict[str, Any] = {}
    for name, of in columns.items():
        highest = max((v["mean"] for v in of.values() if v["mean"] == v["mean"]), default=math.nan)
        content[name] = {}
        for row, s in zip(rows, scales, strict=True):
            value = of.get(s)
            below = math.nan if value is None else value["mean"] - highest
            row.append(mean_cell(value) + ("" if below != below else f" ({signed(below)})"))
            if value is not None:
                content[name][f"{s:g}"] = {**value, "below_highest": below}
    caption = (
        "Box AP and APr in % over the scale s of the cosine, mean ± standard deviation over the "
        "seeds; in brackets, the difference to the highest of the column."
    )
    if reference:
        caption += (
            f" The columns of {reference_name} are not ours: values that it gives, of other data "
            "and another detector, beside which only the shape over s can be compared."
        )
    extra = {"kind": kind, "columns": content}
    extra["reference"] = reference_name if reference else None
    return table(("s", *columns), rows, caption, extra)
