"""Figures of a benchmark of classification losses: the AP of the classes.

As in :mod:`study.figures`.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from igam_d2.class_statistics import class_correlations
from igam_d2.report.drawing import Drawing
from igam_d2.report.style import (
    GROUP_COLORS,
    GROUP_MARKERS,
    INK,
    UNGROUPED,
    coefficient,
    nothing,
)
from study.cells import KINDS, RHO, method_label, of_kind
from study.correlations import correlations
from study.drawing import LOOK, log_ticks, need, new_figure, span
from study.records import RunRecord, select
from study.stats import class_differences, class_means

__all__ = ["ap_figure", "gain_figure"]

PANELS = {
    "information": ("information amount", "information amount (bits)"),
    "instance_count": ("training instances", "training instances (log scale)"),
}
MAX_TITLE = 80  # letters


def ap_figure(
    records: Sequence[RunRecord], method: str, kind: str | None = None, name: str | None = None
) -> Drawing:
    """The classes' AP over information amount and over training instances; means over the seeds."""
    runs = select(records, method, kind)
    need(runs, method)
    ap, information = class_means(runs)
    found = correlations(runs)
    if not found["num_classes"]:  # no information amounts: of the counts alone
        found |= found["all_classes"]
    keys = ("information", "instance_count")
    titles = {key: _coefficient(found[f"spearman_{key}"]) for key in keys}
    with mpl.rc_context(LOOK):
        figure, _ = _over_classes(runs, ap, information, titles)
        figure.axes[0].set_ylabel("AP (%)")
        _head(figure, f"AP of {method_label(method)}", kind, runs[0], ap)
    more = [
        f"r = {_interval(found[f'pearson_{key}'])} with {what}"
        for key, what in (("information", "information"), ("log_instance_count", "log count"))
    ]
    return Drawing(
        name or f"ap_{method}",
        figure,
        f"{of_kind(kind)}{method_label(method)}: each point is a class, its AP and its information "
        f"amount averaged over the seeds ({span([len(runs)])}); {RHO} is Spearman's correlation "
        f"with its 95% interval over the classes, of the {found['num_classes']} with an "
        f"information amount in every seed. Pearson's, of the same: {', '.join(more)}. Hollow: "
        "classes without an amount. In brackets, the number of classes with ground truth.",
        f"Scatter plots of AP of {method_label(method)}: {_said(titles)}.",
    )


def gain_figure(
    records: Sequence[RunRecord],
    method: str,
    baseline: str,
    kind: str | None = None,
    name: str | None = None,
) -> Drawing:
    """What a method adds to the AP of each class of the baseline, over the information amount that
    the baseline measured and over training instances; over the seeds that both have."""
    runs, theirs = select(records, method, kind), select(records, baseline, kind)
    need(runs, method)
    need(theirs, baseline)
    seeds, of_classes = class_differences(runs, theirs)
    need(seeds, f"{method} and {baseline} in a common seed")
    gain, information = of_classes.mean(axis=0), class_means(theirs)[1]
    one = len(seeds) == 1
    spread = None if one else of_classes.std(axis=0, ddof=1)
    count = theirs[0].instance_count
    common = np.isfinite(information) & (count > 0)  # of both panels the same classes
    found = class_correlations(gain[common], information[common], count[common])
    unknown = {"spearman": [math.nan] * 3, "num_classes": 0}
    of = {key: found.get(key, unknown) for key in ("information", "instance_count")}
    titles = {key: _coefficient(value["spearman"]) for key, value in of.items()}
    with mpl.rc_context(LOOK):
        figure, axes = _over_classes(theirs, gain, information, titles, spread)
        for ax in axes:
            ax.axhline(0, color=INK, lw=1, zorder=1)
        figure.axes[0].set_ylabel("ΔAP (percentage points)")
        title = f"AP of {method_label(method)} less that of {method_label(baseline)}"
        _head(figure, title, kind, theirs[0], gain)
    bars = "" if one else ", the bar its standard deviation over them"
    known = gain[np.isfinite(gain)]
    return Drawing(
        name or f"gain_{method}",
        figure,
        f"{of_kind(kind)}Each point is a class: its AP with {method_label(method)} less that with "
        f"{method_label(baseline)}, mean over the paired seeds ({span([len(seeds)])}){bars}. "
        "Information amounts are those at the end of the baseline's training, mean over its seeds; "
        f"{RHO} is Spearman's correlation with its 95% interval over the classes, of the "
        f"{of['information']['num_classes']} with such an amount. Hollow: classes without. In "
        "brackets, the number of classes with ground truth.",
        f"Scatter plots of the difference in AP of {len(known)} classes, "
        f"{np.sum(known > 0)} above 0 and {np.sum(known < 0)} below: {_said(titles)}.",
    )


def _over_classes(
    runs: Sequence[RunRecord],
    y: np.ndarray,
    information: np.ndarray,
    titles: Mapping[str, str],
    spread: np.ndarray | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure of (K,) y over information and over counts, and those of its axes with points."""
    counts = runs[0].instance_count
    xs = {"information": information, "instance_count": np.where(counts > 0, counts, np.nan)}
    figure = new_figure(4.1)
    axes, drawn = figure.subplots(1, 2, sharey=True), []
    for ax, (key, x) in zip(axes, xs.items(), strict=True):
        what, label = PANELS[key]
        ax.set_title(f"Over {what}\n{titles[key]}")
        if not (np.isfinite(x) & np.isfinite(y)).any():
            nothing(ax, f"no {what}")
            continue
        drawn.append(ax)
        if key == "instance_count":
            ax.set_xscale("log")
        for _, of, style in _group_styles(runs[0]):
            color, marker = style["color"], style["marker"]
            if spread is not None:
                ax.errorbar(
                    x[of], y[of], spread[of], fmt="none", ecolor=color, alpha=0.3, lw=1, zorder=1.5
                )
            full = np.isfinite(information[of])
            ax.scatter(x[of[full]], y[of[full]], 30, alpha=0.85, lw=0, color=color, marker=marker)
            ax.scatter(
                x[of[~full]], y[of[~full]], 24, alpha=0.85, lw=1.1, marker=marker,
                facecolors="none", edgecolors=color,
            )  # fmt: skip
        ax.set_xlabel(label)
        ax.margins(x=0.06, y=0.08)
    if axes[1] in drawn:
        log_ticks(axes[1].xaxis)
    axes[1].tick_params(labelleft=True)
    return figure, drawn


def _head(figure: Figure, title: str, kind: str | None, run: RunRecord, y: np.ndarray) -> None:
    """Title with the kind, and a mark for each group with the number of classes that have y."""
    parts = [title, *filter(None, [KINDS.get(kind or "", kind)])]
    text = ", ".join(parts)
    text = text if len(text) <= MAX_TITLE else ",\n".join(parts)
    if not run.groups:
        figure.suptitle(text, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        return
    handles = [
        Line2D([], [], ls="none", ms=6.5, label=f"{label} ({np.isfinite(y[of]).sum()})", **style)
        for label, of, style in _group_styles(run)
    ]
    legend = figure.legend(
        handles=handles, title=text, loc="outside upper left", ncols=4, handletextpad=0.1,
        title_fontproperties={"weight": "bold", "size": 10.5}, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(INK)


def _group_styles(run: RunRecord) -> list[tuple[str, np.ndarray, dict[str, str]]]:
    """(name, indices of the classes, style) of the groups that have classes, the rarest last."""
    styles = []
    for i, (key, label) in enumerate(run.groups.items()):
        style = {"color": GROUP_COLORS[i % 4], "marker": GROUP_MARKERS[i % 4]}
        styles.append((label, [k for k, g in enumerate(run.class_groups) if g == key], style))
    rest = [k for k, g in enumerate(run.class_groups) if g not in run.groups]
    styles.append(("no group", rest, {"color": UNGROUPED, "marker": "o"}))
    return [(label, np.array(of), style) for label, of, style in styles[::-1] if of]


def _coefficient(value: Sequence[float]) -> str:
    return (
        f"Spearman's {RHO} = {_interval(value)}"
        if value[0] == value[0]
        else (f"Spearman's {RHO} unknown")
    )


def _interval(value: Sequence[float]) -> str:
    if value[0] != value[0]:
        return "unknown"
    known = value[1] == value[1]
    interval = f" (95% {coefficient(value[1])} to {coefficient(value[2])})" if known else ""
    return f"{coefficient(value[0])}{interval}"


def _said(titles: Mapping[str, str]) -> str:
    return "; ".join(f"over {PANELS[key][0]}, {text}" for key, text in titles.items())
