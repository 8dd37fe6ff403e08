"""The figure of AP over information amount and over training instances."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from igam_d2.class_statistics import class_correlations

from .ap_figures import TASKS
from .drawing import Drawing
from .labels import label_points
from .run_folder import Run
from .style import (
    FEW_CLASSES,
    INK,
    THOUSANDS,
    class_colors,
    coefficient,
    freeze,
    group_legend,
    group_styles,
    new_figure,
    nothing,
    run_name,
    shorten,
)

RHO = "\N{GREEK SMALL LETTER RHO}"
UNKNOWN = "unknown"


def ap_correlation(runs: Sequence[Run], task: str) -> Drawing | str:
    """A row for each run: per-class AP over information amount and over training instances."""
    shown = [run for run in runs if np.isfinite(run.class_ap(task)).any()]
    if not shown:
        return "No class has an AP."
    figure = new_figure(0.7 + 3.3 * len(shown))
    axes = figure.subplots(len(shown), 2, squeeze=False, sharey="row")
    later, alts = [], []
    for (left, right), run in zip(axes, shown, strict=True):
        ap, bits = run.class_ap(task), run.information()
        counts = run.column("instance_count")
        bits = np.full(len(ap), np.nan) if bits is None else bits
        stored = (run.results.get("correlation") or {}).get(task) or {}
        found = class_correlations(ap, bits, counts) | {k: v for k, v in stored.items() if v}
        name = f"{run_name(run)}\n" if len(runs) > 1 else ""
        left.set_ylabel(f"{TASKS.get(task, task)} {run.class_metric} (%)")
        text = _correlation(found.get("information"))
        left.set_title(name + text, fontsize=9.5)
        alts.append(f"{run.name}: AP and information amount, {text}")
        if np.isfinite(bits).any():
            left.set_xlabel("information amount (bits)")
            later += [(left, run, *_scatter(left, run, bits, ap))]
        else:
            nothing(left, "no information amounts")
        text = _correlation(found.get("log_instance_count"))
        raw = (found.get("instance_count") or {}).get("pearson")
        text += f"; not in logs r = {_known(raw[0])}" if raw else ""
        right.set_title(text, fontsize=9.5)
        alts.append(f"AP and the log of training instances, {text}")
        right.tick_params(labelleft=True)
        if (counts > 0).any():
            right.set_xscale("log")
            right.xaxis.set_major_formatter(THOUSANDS)
            right.set_xlabel("training instances (log scale)")
            later += [(right, run, *_scatter(right, run, np.where(counts > 0, counts, np.nan), ap))]
        else:
            nothing(right, "no counts of training instances")
    group_legend(figure, runs[0])
    freeze(figure)
    for ax, run, x, known in later:
        if len(run.classes) <= FEW_CLASSES:
            colors, names = class_colors(run), run.class_names
            ap = run.class_ap(task)
            texts = [shorten(names[k], 16) for k in known]
            label_points(ax, x[known], ap[known], texts, [colors[k] for k in known], 7.5, ax.lines)
    return Drawing(
        "ap_correlation",
        figure,
        f"Each point is a class; the line is the least-squares fit. r is Pearson's and {RHO} "
        "Spearman's correlation over the n classes that have both.",
        "Scatter plots of per-class AP. " + "; ".join(alts) + ".",
    )


def _scatter(ax: Axes, run: Run, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and fit; returns x, and the indices of the classes that were drawn."""
    few = len(x) <= FEW_CLASSES
    for _, color, marker, members in group_styles(run):
        ax.scatter(
            x[members], y[members], 30 if few else 11, color=color, marker=marker, lw=0,
            alpha=0.9 if few else 0.6, rasterized=len(x) > 300,
        )  # fmt: skip
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    log = ax.get_xscale() == "log"
    position = np.log(x[known]) if log else x[known]
    ax.margins(x=0.09, y=0.12)
    if len(known) >= 3 and np.ptp(position) > 0:
        slope, offset = np.polyfit(position, y[known], 1)
        ends = np.array([position.min(), position.max()])
        ax.plot(np.exp(ends) if log else ends, slope * ends + offset, color=INK, lw=1.2, zorder=1)
    return x, known


def _correlation(found: dict | None) -> str:
    """ "r = -.52 (95% -.71 to -.28), rho = -.49, n = 9"."""
    r, low, high = map(_known, (found or {}).get("pearson") or [None] * 3)
    if r == UNKNOWN:
        return f"r {UNKNOWN}"
    interval = UNKNOWN if UNKNOWN in (low, high) else f"{low} to {high}"
    rho = _known((found.get("spearman") or [None])[0])
    return f"r = {r} (95% {interval}), {RHO} = {rho}, n = {found['num_classes']:,}"


def _known(value: float | None) -> str:
    return UNKNOWN if value is None or value != value else coefficient(value)
