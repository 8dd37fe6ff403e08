"""Figure of a benchmark of classification losses: the margins. As in :mod:`study.figures`."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from igam_d2.report.drawing import Drawing
from igam_d2.report.style import INK, MUTED, THOUSANDS
from study.cells import STATISTICS, axes_of, method_label, of_kind
from study.drawing import LOOK, SERIES, log_ticks, need, new_figure, span
from study.records import RunRecord, select

__all__ = ["margins_figure"]

READING_COLORS = dict(zip(("mean", "paper", "mean_sqrt", "ratio"), SERIES, strict=True))


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
        f"{of_kind(kind)}Magnitudes of the margins after the refreshes that training used, for "
        "each reading of the normalisation and shrinkage: largest and mean over the ordered pairs "
        f"of two classes. Before the first refresh{_first(shown)} all are 0. "
        f"Mean over the seeds ({span(len(runs) for runs in shown.values())}); the bands "
        "reach from the lowest to the highest seed.",
        "; ".join(alts) + ".",
    )


def _first(shown: Mapping[tuple[str, str], Sequence[RunRecord]]) -> str:
    """At which iteration, where all have the same."""
    runs = [run for of in shown.values() for run in of]
    first = {int(run.used_margins.iterations[0]) for run in runs}
    of = {run.max_iter for run in runs}
    if len(first) > 1 or len(of) > 1:
        return ""
    (at,), (number,) = first, of
    return f", at iteration {at:,}" + ("" if number is None else f" of {number:,}") + ","


def _has_margins(run: RunRecord) -> bool:
    """Whether one is not zero, of which there is a logarithm."""
    return run.used_margins is not None and bool((run.used_margins.largest > 0).any())


def _over_seeds(runs: Sequence[RunRecord], attribute: str) -> tuple[np.ndarray, ...]:
    """Iterations of all of the runs; lowest, mean and highest, NaN where zero: it has no log."""
    at = [
        dict(
            zip(r.used_margins.iterations.tolist(), getattr(r.used_margins, attribute), strict=True)
        )
        for r in runs
    ]
    x = sorted(set.intersection(*(set(of) for of in at)))
    values = np.array([[of[i] for i in x] for of in at]).reshape(len(at), len(x))
    rows = (values.min(axis=0), values.mean(axis=0), values.max(axis=0))
    return (np.array(x), *(np.where(row > 0, row, np.nan) for row in rows))
