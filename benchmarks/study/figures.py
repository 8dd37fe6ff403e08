"""Figures of a benchmark of classification losses: the methods beside one another.

Titles say what is plotted, never what follows from it. `kind` chooses the runs of that kind; None
is for records that are all of one. Every function returns a drawing with caption and alternative
text, which :func:`study.drawing.save` writes.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from igam_d2.report.drawing import Drawing
from igam_d2.report.style import EDGE, INK, MUTED, PAPER, signed
from study.cells import STATISTICS, axes_of, holds, method_label, method_labels, of_kind
from study.comparison_tables import adjusted, differences
from study.drawing import LOOK, OTHER, SERIES, need, new_figure, span
from study.records import RunRecord, select
from study.stats import DRAWS, PairedDifference
from study.tables import GRID_METRICS, grid_rule

__all__ = ["differences_figure", "grid_figure", "sweep_figure"]

MARKERS = "osD^v"
LESS_MORE = LinearSegmentedColormap.from_list(
    "less_more", ["#b04a00", "#f0b48a", "#ffffff", "#8cc0e2", "#005a92"]
)
POINTS = "percentage points"


def differences_figure(
    records: Sequence[RunRecord],
    methods: Sequence[str],
    baseline: str,
    kind: str | None = None,
    name: str = "differences",
) -> Drawing:
    """The methods' AP and APr less the baseline's, with both 95% intervals."""
    found = differences(records, methods, baseline, kind, ("AP", "APr"))
    found = {method: of for method, of in found.items() if any(of.values())}
    need(found, f"a method and {baseline} in a common seed")
    labels = method_labels([baseline, *found])
    with mpl.rc_context(LOOK):
        figure = new_figure(1.35 + 0.33 * len(found))
        axes = figure.subplots(1, 2, sharey=True)
        for ax, metric in zip(axes, ("AP", "APr"), strict=True):
            _forest(ax, [of[metric] for of in found.values()], found)
            ax.set_title(f"Difference in {metric}")
        figure.supxlabel(
            f"difference to {labels[baseline]} ({POINTS})", fontsize=10, color=MUTED, x=0.6
        )
        axes[0].set_yticks(range(len(found)), [labels[method] for method in found])
        axes[0].tick_params(axis="y", labelcolor=INK, length=0, pad=9)
        axes[0].set_ylim(len(found) - 0.4, -0.6)
        line = {"color": INK, "solid_capstyle": "butt"}
        dot = {"ls": "none", "marker": "o", "ms": 6, "mec": INK}
        handles = [
            Line2D([], [], lw=6, alpha=0.35, label="95% over classes", **line),
            Line2D([], [], lw=1.3, label="95% over seeds", **line),
            Line2D([], [], mfc=INK, label="both exclude 0", **dot),
            Line2D([], [], mfc=PAPER, label="not both", **dot),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.4)
    seeds = span(len(d.seeds) for of in found.values() for d in of.values() if d)
    values = [
        f"{labels[method]} {signed(of['AP'].mean)}"
        for method, of in found.items()
        if of["AP"] is not None
    ]
    return Drawing(
        name,
        figure,
        f"{of_kind(kind)}Box AP and APr less those of {method_label(baseline)}, paired by seed "
        f"({seeds}); methods compared with one baseline: {len(found)}, each by itself. Thick: 95% "
        f"interval by bootstrap over the classes ({DRAWS:,} draws; of a few rare classes it is too "
        "narrow); thin: by Student's t over the seeds, with an arrow where it goes on. Filled: "
        "both exclude 0, with at least 3 seeds. Blue: IGAM.",
        f"Differences in AP to {method_label(baseline)}: {'; '.join(values)}.",
    )


def _forest(ax: Axes, found: Sequence[PairedDifference | None], methods: Sequence[str]) -> None:
    shown = [d for d in found if d is not None]
    ends = [v for d in shown for v in (d.mean, *d.class_interval) if v == v] + [0.0]
    # Of two seeds the interval over seeds is so wide that it would hide the others
    room = 0.22 * max(max(ends) - min(ends), 0.2)
    low, high = min(ends) - room, max(ends) + room
    ax.axvline(0, color=EDGE, lw=1, zorder=1)
    for y, (d, method) in enumerate(zip(found, methods, strict=True)):
        if d is None:
            ax.text(0, y, "-", color=MUTED, ha="center", va="center")
            continue
        color = SERIES[0] if method.startswith("igam") else OTHER
        style = {"color": color, "solid_capstyle": "butt"}
        ax.plot(d.class_interval, [y, y], lw=7, alpha=0.35, **style)
        if d.seed_interval[0] == d.seed_interval[0]:
            ax.plot(np.clip(d.seed_interval, low, high), [y, y], lw=1.3, **style)
            for end, beyond, marker in ((low, d.seed_interval[0] < low, "<"),
                                        (high, d.seed_interval[1] > high, ">")):  # fmt: skip
                if beyond:
                    ax.plot(end, y, marker, color=color, ms=5, clip_on=False)
        fill = color if d.beyond_noise else PAPER
        ax.plot(d.mean, y, "o", ms=6, mfc=fill, mec=color, mew=1.4, zorder=3)
    ax.set_xlim(low, high)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))


def sweep_figure(
    records: Sequence[RunRecord],
    series: Mapping[str, Mapping[float, str]],
    kind: str | None = None,
    name: str = "scale",
) -> Drawing:
    """AP and APr over the scale s: label -> {s: method}."""
    alts = []
    with mpl.rc_context(LOOK):
        figure = new_figure(3.5)
        axes = figure.subplots(1, 2)
        for i, (label, of) in enumerate(series.items()):
            runs = {s: select(records, method, kind) for s, method in sorted(of.items())}
            runs = {s: some for s, some in runs.items() if some}
            if not runs:
                continue
            style = {"color": (OTHER, *SERIES)[i % 5], "marker": MARKERS[i % len(MARKERS)]}
            style |= {"ls": ("-", (0, (5, 2)))[i % 2], "lw": 1.8, "ms": 6, "zorder": 3}
            x = list(runs)
            for ax, metric in zip(axes, ("AP", "APr"), strict=True):
                values = [[run.metrics[metric] for run in some] for some in runs.values()]
                means = [np.mean(v) for v in values]
                ax.plot(x, means, label=label, **style)
                ax.fill_between(
                    x, [min(v) for v in values], [max(v) for v in values],
                    color=style["color"], alpha=0.16, lw=0,
                )  # fmt: skip
                said = ", ".join(f"{m:.1f} at s = {s:g}" for s, m in zip(x, means, strict=True))
                alts.append(f"{label}, {metric}: {said}")
        need(alts, "a method of the sweep")
        for ax, metric in zip(axes, ("AP", "APr"), strict=True):
            ax.set_title(f"{metric} over the scale of the cosine")
            ax.set(xlabel="scale s", ylabel=f"{metric} (%)")
            ax.set_xticks(sorted({s for of in series.values() for s in of}))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=3)
    seeds = span(
        len(some)
        for of in series.values()
        for m in of.values()
        if (some := select(records, m, kind))
    )
    return Drawing(
        name,
        figure,
        f"{of_kind(kind)}Box AP and APr over the scale s: mean over the seeds ({seeds}); the bands "
        "reach from the lowest to the highest seed.",
        "; ".join(alts) + ".",
    )


def grid_figure(
    records: Sequence[RunRecord],
    grid: Mapping[tuple[str, str], str],
    baseline: str,
    kind: str | None = None,
    name: str = "grid",
) -> Drawing:
    """Differences in AP and APr to the baseline, over reading and shrinkage.

    Args:
        grid: (reading, shrinkage) -> method.
    """
    readings, shrinkages = axes_of(grid)
    found = differences(records, list(grid.values()), baseline, kind, GRID_METRICS)
    p_holm = adjusted(found, GRID_METRICS)
    need([d for of in found.values() for d in of.values() if d], f"the grid and {baseline}")
    alts = []
    with mpl.rc_context(LOOK):
        figure = new_figure(1.5 + 0.55 * len(readings))
        axes = figure.subplots(1, 2)
        for ax, metric in zip(axes, GRID_METRICS, strict=True):
            cells = {pair: found.get(method, {}).get(metric) for pair, method in grid.items()}
            largest = max((abs(d.mean) for d in cells.values() if d), default=0.0) or 1.0
            values = np.full((len(readings), len(shrinkages)), np.nan)
            for (reading, shrinkage), d in cells.items():
                i, j = readings.index(reading), shrinkages.index(shrinkage)
                if d is None:
                    ax.text(j, i, "-", ha="center", va="center", color=MUTED)
                    continue
                values[i, j] = d.mean
                ground = to_rgb(LESS_MORE(0.5 + 0.5 * d.mean / largest))
                dark = np.dot([0.21, 0.72, 0.07], np.power(ground, 2.2)) < 0.2
                style = {"ha": "center", "color": PAPER if dark else INK}
                p = p_holm[metric][grid[reading, shrinkage]]
                weight = "bold" if holds(d, p) else "normal"
                one = d.std != d.std
                ax.text(
                    j, i, signed(d.mean), va="center" if one else "bottom", fontweight=weight,
                    fontsize=10.5, **style,
                )  # fmt: skip
                if not one:
                    ax.text(j, i + 0.08, f"± {d.std:.1f}", va="top", fontsize=8.5, **style)
                alts.append(f"{method_label(grid[reading, shrinkage])}, {metric} {signed(d.mean)}")
            image = ax.imshow(values, cmap=LESS_MORE, vmin=-largest, vmax=largest, aspect="auto")
            ax.set_xticks(range(len(shrinkages)), [STATISTICS.get(s, s) for s in shrinkages])
            ax.set_yticks(range(len(readings)), [STATISTICS.get(r, r) for r in readings])
            ax.tick_params(length=0, labelcolor=INK)
            ax.grid(False)
            ax.spines[:].set_visible(False)
            ax.hlines(np.arange(len(readings) - 1) + 0.5, -0.5, len(shrinkages) - 0.5, PAPER, lw=2)
            ax.vlines(np.arange(len(shrinkages) - 1) + 0.5, -0.5, len(readings) - 0.5, PAPER, lw=2)
            ax.set_title(f"{metric} less that of {method_label(baseline)}")
            ax.set_xlabel("shrinkage")
            bar = figure.colorbar(image, ax=ax, aspect=28, pad=0.03, label=POINTS)
            bar.outline.set_lw(0)
        axes[0].set_ylabel("reading")
    seeds = span(len(d.seeds) for of in found.values() for d in of.values() if d)
    return Drawing(
        name,
        figure,
        f"{of_kind(kind)}Box AP and APr of IGAM less those of {method_label(baseline)}, over the "
        "reading of the normalisation and the shrinkage: mean ± standard deviation over the paired "
        f"seeds ({seeds}). {grid_rule(p_holm, 'Bold')}",
        "; ".join(alts) + ".",
    )
