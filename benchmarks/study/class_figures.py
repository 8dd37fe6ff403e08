"""Figures of a benchmark of classification losses: the classes' AP, and the margins.

As in :mod:`study.figures`.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from igam_d2.report.drawing import Drawing
from igam_d2.report.style import (
    GROUP_COLORS,
    GROUP_MARKERS,
    INK,
    MUTED,
    THOUSANDS,
    UNGROUPED,
    coefficient,
    nothing,
)
from study.cells import RHO, STATISTICS, axes_of, method_label
from study.drawing import LOOK, SERIES, log_ticks, need, new_figure, span
from study.records import RunRecord, select
from study.stats import class_means, correlations

__all__ = ["ap_figure", "margins_figure"]

READING_COLORS = dict(zip(("mean", "paper", "mean_sqrt", "ratio"), SERIES, strict=True))


def ap_figure(
    records: Sequence[RunRecord], method: str, kind: str | None = None, name: str | None = None
) -> Drawing:
    """The classes' AP over information amount and over training instances; means over the seeds."""
    runs = select(records, method, kind)
    need(runs, method)
    (ap, information), counts = class_means(runs), runs[0].instance_count
    found = correlations(runs)
    styles = _group_styles(runs[0])
    panels = (
        (information, "information amount", "information amount (bits)", "spearman_information"),
        (
            np.where(counts > 0, counts, np.nan),
            "training instances",
            "training instances (log scale)",
            "spearman_instance_count",
        ),
    )
    alts = []
    with mpl.rc_context(LOOK):
        figure = new_figure(3.9)
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (x, title, label, key) in zip(axes, panels, strict=True):
            text = _correlation(found[key])
            ax.set_title(f"AP and {title}\n{text}")
            alts.append(f"AP and {title}: {text}")
            if not (np.isfinite(x) & np.isfinite(ap)).any():
                nothing(ax, f"no {title}")
                continue
            for _, of, style in styles:
                ax.scatter(x[of], ap[of], 30, alpha=0.85, lw=0, **style)
            ax.set_xlabel(label)
            ax.margins(x=0.06, y=0.08)
        if axes[1].collections:
            axes[1].set_xscale("log")
            log_ticks(axes[1].xaxis)
        axes[0].set_ylabel("AP (%)")
        axes[1].tick_params(labelleft=True)
        handles = [
            Line2D(
                [], [], ls="none", ms=6.5, label=f"{label} ({np.isfinite(ap[of]).sum()})", **style
            )
            for label, of, style in styles
        ]
        if runs[0].groups:
            figure.legend(handles=handles, loc="outside upper left", ncols=4, handletextpad=0.1)
    return Drawing(
        name or f"ap_{method}",
        figure,
        f"{method_label(method)}: each point is a class, its AP and its information amount "
        f"averaged over the seeds ({span([len(runs)])}); {RHO} is Spearman's correlation with its "
        "95% interval over the classes. In brackets, the number of classes with ground truth.",
        f"Scatter plots of {method_label(method)}. {'; '.join(alts)}.",
    )


def _group_styles(run: RunRecord) -> list[tuple[str, np.ndarray, dict[str, str]]]:
    """(name, indices of the classes, style) of the groups that have classes, the rarest last."""
    styles = []
    for i, (key, label) in enumerate(run.groups.items()):
        style = {"color": GROUP_COLORS[i % 4], "marker": GROUP_MARKERS[i % 4]}
        styles.append((label, [k for k, g in enumerate(run.class_groups) if g == key], style))
    rest = [k for k, g in enumerate(run.class_groups) if g not in run.groups]
    styles.append(("no group", rest, {"color": UNGROUPED, "marker": "o"}))
    return [(label, np.array(of), style) for label, of, style in styles[::-1] if of]


def _correlation(value: Sequence[float]) -> str:
    if value[0] != value[0]:
        return f"Spearman's {RHO} unknown"
    known = value[1] == value[1]
    interval = f" (95% {coefficient(value[1])} to {coefficient(value[2])})" if known else ""
    return f"Spearman's {RHO} = {coefficient(value[0])}{interval}"


def margins_figure(
    records: Sequence[RunRecord],
    grid: Mapping[tuple[str, str], str],
    kind: str | None = None,
    name: str = "margins",
) -> Drawing:
    """Largest and mean margin at the refreshes: a panel a shrinkage, a colour a reading.

    Args:
        grid: (reading, shrinkage) -> method.
    """
    readings, shrinkages = axes_of(grid)
    shown = {
        pair: runs
        for pair, method in grid.items()
        if (runs := [r for r in select(records, method, kind) if _has_margins(r)])
    }
    need(shown, "a method with margins")
    shrinkages = [s for s in shrinkages if any(s == pair[1] for pair in shown)]
    alts = []
    with mpl.rc_context(LOOK):
        figure = new_figure(4.0)
        axes = figure.subplots(1, len(shrinkages), squeeze=False, sharey=True)[0]
        for ax, shrinkage in zip(axes, shrinkages, strict=True):
            for reading in readings:
                runs = shown.get((reading, shrinkage))
                if not runs:
                    continue
                color = READING_COLORS.get(reading, MUTED)
                for attribute, style in (("largest", "-"), ("mean", (0, (4, 2)))):
                    x, low, mean, high = _over_seeds(runs, attribute)
                    ax.plot(x, mean, color=color, ls=style, lw=1.8)
                    ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
                    said = f"{attribute} {mean[-1]:.2g} rad at the end"
                    alts.append(f"{method_label(grid[reading, shrinkage])}: {said}")
            ax.set_yscale("log")
            ax.set_title(f"Shrinkage {STATISTICS.get(shrinkage, shrinkage)}")
            ax.set_xlabel("iteration")
            ax.xaxis.set_major_locator(MaxNLocator(4 if len(shrinkages) > 2 else 6, integer=True))
            ax.xaxis.set_major_formatter(THOUSANDS)
        log_ticks(axes[0].yaxis)  # of all: it is shared
        axes[0].set_ylabel("margin (rad, log scale)")
        handles = [
            Line2D([], [], lw=2, color=READING_COLORS.get(r, MUTED), label=STATISTICS.get(r, r))
            for r in readings
            if any(r == pair[0] for pair in shown)
        ]
        for label, style in (("largest", "-"), ("mean over pairs", (0, (4, 2)))):
            handles.append(Line2D([], [], lw=1.8, color=INK, ls=style, label=label))
        figure.legend(
            handles=handles, loc="outside upper left", ncols=6, handlelength=2.4, columnspacing=1.3
        )
    return Drawing(
        name,
        figure,
        "Magnitudes of the margins at the refreshes while training, for each reading of the "
        f"normalisation and shrinkage: largest and mean over the ordered pairs of two classes. "
        f"Mean over the seeds ({span(len(runs) for runs in shown.values())}); the bands "
        "reach from the lowest to the highest seed.",
        "; ".join(alts) + ".",
    )


def _has_margins(run: RunRecord) -> bool:
    """Whether one is not zero, of which there is a logarithm."""
    return run.margins is not None and bool((run.margins.largest > 0).any())


def _over_seeds(runs: Sequence[RunRecord], attribute: str) -> tuple[np.ndarray, ...]:
    """Iterations of all of the runs; lowest, mean and highest, NaN where zero: it has no log."""
    at = [
        dict(zip(r.margins.iterations.tolist(), getattr(r.margins, attribute), strict=True))
        for r in runs
    ]
    x = sorted(set.intersection(*(set(of) for of in at)))
    values = np.array([[of[i] for i in x] for of in at]).reshape(len(at), len(x))
    rows = (values.min(axis=0), values.mean(axis=0), values.max(axis=0))
    return (np.array(x), *(np.where(row > 0, row, np.nan) for row in rows))
