"""Tables of a benchmark of classification losses: markdown, and the same numbers for JSON.

Every table is (markdown, content): the table with its caption below, and a dictionary for
:func:`igam_d2.files.write_json`, which writes the NaN of what is not known as null. A method
without a run has "-" in every cell. `kind` chooses the runs of that kind; None is for records that
are all of one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from igam_d2.report.style import signed
from study.cells import (
    STATISTICS,
    Table,
    as_json,
    axes_of,
    holds,
    markdown,
    mean_cell,
    method_label,
    of_kind,
    seeds_cell,
    short_cell,
    small_cell,
    table,
)
from study.comparison_tables import (
    APR2,
    adjusted,
    differences,
)
from study.records import CLASS_METRICS, RunRecord, select
from study.stats import mean_std, summary

__all__ = ["grid_rule", "grid_table", "main_table", "margins_table", "sweep_table"]

SHOWN = (*CLASS_METRICS, "bias std")
GRID_METRICS = ("AP", "APr")


def main_table(
    records: Sequence[RunRecord], methods: Sequence[str], kind: str | None = None
) -> Table:
    """AP, APr, APr2, APc, APf and bias std of the methods, in their order."""
    rows, content = [], []
    for method in methods:
        runs = select(records, method, kind)
        record = {"method": method, "label": method_label(method)}
        record |= summary(runs) if runs else {"seeds": [], "metrics": {}}
        content.append(record)
        cells = [mean_cell(record["metrics"].get(name)) for name in SHOWN]
        rows.append([record["label"], seeds_cell(record["seeds"]), *cells])
    caption = (
        f"{of_kind(kind)}Box AP in %, mean ± standard deviation over the seeds, which are named. "
    )
    if len({tuple(record["seeds"]) for record in content if record["seeds"]}) > 1:
        caption += (
            "Rows of other seeds do not compare directly: differences are taken over the seeds "
            "that both have. "
        )
    caption += (
        f"{APR2}bias std: standard deviation of the AP over the classes, in percentage points."
    )
    return table(("method", "seeds", *SHOWN), rows, caption, {"kind": kind, "methods": content})


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
    found = differences(records, list(grid.values()), baseline, kind, GRID_METRICS)
    p_holm = adjusted(found, GRID_METRICS)
    cells: dict[str, dict[str, Any]] = {reading: {} for reading in readings}
    parts = []
    for metric in GRID_METRICS:
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
                p = p_holm[metric].get(method, math.nan)
                cell[f"{metric} difference"] = as_json(difference, p) if difference else None
                below = short_cell(difference, holds(difference, p)) if difference else ""
                row.append(mean_cell(value) + (f"<br>{below}" if below else ""))
            rows.append(row)
        header = (f"{metric}: reading", *(STATISTICS.get(name, name) for name in shrinkages))
        parts.append(markdown(header, rows))
    caption = (
        f"{of_kind(kind)}Box AP and APr in %, mean ± standard deviation over the seeds; below, the "
        f"difference to {method_label(baseline)}, over the seeds that both have. "
        f"{grid_rule(p_holm, '**Bold**')}"
    )
    content = {"kind": kind, "baseline": baseline, "caption": caption, "cells": cells}
    content["num_comparisons_of_holm"] = {m: _tested(of) for m, of in p_holm.items()}
    return "\n\n".join([*parts, caption]) + "\n", content


def grid_rule(p_holm: Mapping[str, Mapping[str, float]], bold: str) -> str:
    """What is bold in a grid."""
    tested = max((_tested(of) for of in p_holm.values()), default=0)
    compared = max((len(of) for of in p_holm.values()), default=0)
    if not tested:
        return f"Comparisons of a metric: {compared}; with fewer than 3 seeds none is tested."
    return (
        f"{bold}: the 95% intervals over the classes and over the seeds both exclude 0, and p < "
        ".05 by the t-test over the seeds after Holm's adjustment for all comparisons of a metric, "
        f"{tested}."
    )


def _tested(p_values: Mapping[str, float]) -> int:
    return sum(not math.isnan(p) for p in p_values.values())


def margins_table(
    records: Sequence[RunRecord], methods: Sequence[str], kind: str | None = None
) -> Table:
    """The largest and the mean margin of the first and of the last refresh that training used."""
    rows, content = [], []
    for method in methods:
        runs = [run for run in select(records, method, kind) if run.used_margins is not None]
        record: dict[str, Any] = {"method": method, "label": method_label(method)}
        record["seeds"] = [run.seed for run in runs]
        record["scale"] = _common(run.scale for run in runs)
        record["sign"] = _common(run.used_margins.sign for run in runs)
        record["max_iter"] = _common(run.max_iter for run in runs)
        for at, index in (("first", 0), ("last", -1)):
            at_iterations = (int(run.used_margins.iterations[index]) for run in runs)
            record[f"{at} iteration"] = _common(at_iterations)
            for name in ("largest", "mean"):
                values = [float(getattr(run.used_margins, name)[index]) for run in runs]
                record[f"{at} {name}"] = mean_std(values)
        keys = [f"{at} {name}" for at in ("first", "last") for name in ("largest", "mean")]
        cells = [small_cell(record[key]) for key in keys]
        s = record["scale"]
        for key in ("last largest", "last mean"):
            values = None if s is None else [s * value for value in record[key]["values"]]
            record[f"{key} times scale"] = None if values is None else mean_std(values)
            cells.append(small_cell(record[f"{key} times scale"]))
        at = [record["first iteration"], record["last iteration"]]
        refreshes = "-" if None in at else f"{at[0]:,} and {at[1]:,}"
        if record["max_iter"] is not None and None not in at:
            refreshes += f" of {record['max_iter']:,}"
        number = "-" if s is None else f"{s:g}"
        rows.append(
            [
                record["label"],
                seeds_cell(record["seeds"]),
                refreshes,
                *cells[:4],
                number,
                *cells[4:],
            ]
        )
        content.append(record)
    caption = (
        f"{of_kind(kind)}Margins in radians, mean ± standard deviation over the seeds: the "
        "largest, and the mean over all ordered pairs of two classes, of which one in two has "
        "none. Iterations: the first refresh, before which all margins are 0, and the last that "
        "training used (none follows one at the very end), of all iterations. The last two "
        "columns, s times the margin, are in logits: a margin of m changes a cosine by at most m, "
        "and so a logit by at most s times m."
    )
    header = (
        "method", "seeds", "iterations", "first largest", "first mean", "last largest",
        "last mean", "s", "s times last largest", "s times last mean",
    )  # fmt: skip
    return table(header, rows, caption, {"kind": kind, "methods": content})


def _common(values: Iterable[Any]) -> Any:
    """What all are, or None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


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
        f"{of_kind(kind)}Box AP and APr in % over the scale s of the cosine, mean ± standard "
        "deviation over the seeds; in brackets, the difference to the highest of the column."
    )
    if reference:
        caption += (
            f" The columns of {reference_name} are not ours: values that it gives, of other data "
            "and another detector, beside which only the shape over s can be compared."
        )
    extra = {"kind": kind, "columns": content}
    extra["reference"] = reference_name if reference else None
    return table(("s", *columns), rows, caption, extra)
