"""What the cells of the tables and the labels of the figures say."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from igam_d2.report.style import coefficient, signed
from study.stats import PairedDifference

__all__ = [
    "KINDS",
    "RHO",
    "STATISTICS",
    "Table",
    "as_json",
    "axes_of",
    "difference_cell",
    "holds",
    "interval_cell",
    "markdown",
    "mean_cell",
    "method_label",
    "method_labels",
    "of_kind",
    "seeds_cell",
    "short_cell",
    "small_cell",
    "table",
]

KINDS = {"full": "whole detectors", "cached": "second stages on cached RoI features"}
NAMES = {
    "softmax_ce": "softmax CE",
    "cosine_ce": "cosine CE",
    "igam": "IGAM",
    "c2am": "C2AM",
    "seesaw": "Seesaw",
    "eqlv2": "EQL v2",
    "balanced_softmax": "balanced softmax",
}
STATISTICS = {"mean_sqrt": "mean sqrt", "oas": "OAS"}
_METHOD = re.compile(
    rf"({'|'.join(NAMES)})(?:_(paper|mean_sqrt|mean|ratio)_(none|floor|oas))?(?:_s(\d+))?"
    r"(_opposite)?(_rfs)?"
)
RHO = "\N{GREEK SMALL LETTER RHO}"

Table = tuple[str, dict[str, Any]]


def method_label(method: str, *, scale: bool = True) -> str:
    """ "igam_mean_oas_s20_rfs" is "IGAM mean, OAS, s = 20, RFS"; a name of another form stays."""
    match = _METHOD.fullmatch(method)
    if match is None:
        return method
    name, reading, shrinkage, s, opposite, repeats = match.groups()
    parts = [NAMES[name]]
    if reading:
        parts[0] += f" {STATISTICS.get(reading, reading)}"
        parts.append(
            "no shrinkage" if shrinkage == "none" else STATISTICS.get(shrinkage, shrinkage)
        )
    parts += [f"s = {s}"] if s and scale else []
    parts += ["opposite sign"] if opposite else []
    return ", ".join(parts + (["RFS"] if repeats else []))


def method_labels(methods: Sequence[str]) -> dict[str, str]:
    """Of several methods, without the scale where all that name one name the same."""
    scales = {match[4] for method in methods if (match := _METHOD.fullmatch(method))} - {None}
    return {method: method_label(method, scale=len(scales) > 1) for method in methods}


def of_kind(kind: str | None) -> str:
    """To begin a caption with: "Whole detectors. "; nothing where the kind is not told."""
    name = KINDS.get(kind or "", kind or "")
    return f"{name[:1].upper()}{name[1:]}. " if name else ""


def axes_of(grid: Mapping[tuple[str, str], str]) -> tuple[list[str], list[str]]:
    """The readings and the shrinkages of a grid, in its order."""
    return list(dict.fromkeys(r for r, _ in grid)), list(dict.fromkeys(s for _, s in grid))


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, content: dict[str, Any]
) -> Table:
    return f"{markdown(header, rows)}\n\n{caption}\n", {**content, "caption": caption}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ("left", *["right"] * (len(header) - 1))
    return tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=align)


def as_json(difference: PairedDifference, p_holm: float | None = None) -> dict[str, Any]:
    content = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(difference).items()}
    content["beyond_noise"] = difference.beyond_noise
    if p_holm is not None:
        content |= {"p_holm": p_holm, "holds_after_holm": holds(difference, p_holm)}
    return content


def holds(difference: PairedDifference, p_holm: float) -> bool:
    """Whether it is beyond noise also as one of many comparisons."""
    return difference.beyond_noise and p_holm < 0.05


def seeds_cell(seeds: Sequence[int]) -> str:
    """Which seeds: "1-4", "1, 3", "1-2, 4", or "none"."""
    runs: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs) or "none"


def mean_cell(metric: dict[str, Any] | None, form: str = ".1f") -> str:
    if metric is None or metric["mean"] != metric["mean"]:
        return "-"
    spread = "" if metric["std"] != metric["std"] else f" ± {metric['std']:{form}}"
    return f"{metric['mean']:{form}}{spread}"


def small_cell(metric: dict[str, Any] | None) -> str:
    """With three digits, wherever they are."""
    mean = math.nan if metric is None else metric["mean"]
    digits = 2 - math.floor(math.log10(mean)) if mean > 0 else 1
    return mean_cell(metric, f".{max(0, digits)}f")


def short_cell(difference: PairedDifference, bold: bool) -> str:
    text = signed(difference.mean)
    text = f"**{text}**" if bold else text
    return text + ("" if difference.std != difference.std else f" ± {difference.std:.1f}")


def difference_cell(difference: PairedDifference | None, p_holm: float = math.nan) -> str:
    """The mean, and below it the interval over the classes, and that over the seeds."""
    if difference is None:
        return "-"
    mean = signed(difference.mean)
    mean = f"**{mean}**" if difference.beyond_noise else mean
    mean += " †" if p_holm < 0.05 else ""
    lines = [
        "-" if low != low else f"{signed(low)} to {signed(high)}"
        for low, high in (difference.class_interval, difference.seed_interval)
    ]
    return "<br>".join([mean, *lines])


def interval_cell(value: Sequence[float] | None, form: Callable[[float], str] = coefficient) -> str:
    """Of [value, low, high], by default correlations: the value, and below it the interval."""
    if value is None or value[0] != value[0]:
        return "-"
    known = value[1] == value[1]
    return form(value[0]) + (f"<br>{form(value[1])} to {form(value[2])}" if known else "")
