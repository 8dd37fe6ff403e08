"""Figures of information amounts and of the margins they make."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FixedLocator, MaxNLocator

from .drawing import Drawing
from .labels import label_ends
from .run_folder import InformationHistory, Run
from .style import (
    FEW_CLASSES,
    GRID,
    HEAT,
    INK,
    PAPER,
    THOUSANDS,
    by_frequency,
    class_colors,
    freeze,
    group_legend,
    group_styles,
    new_figure,
    nothing,
    run_name,
    shorten,
)

# More and more of one colour on the ground, so that it follows the page's theme.
HEAT_MAP = LinearSegmentedColormap.from_list("heat", [(HEAT, 0.08), (HEAT, 1)], N=64)
NUMBERED_CELLS, MATRIX_CLASSES = 12, 20
NEGATIVE = "\N{MINUS SIGN}"


def information_history(runs: Sequence[Run]) -> Drawing | str:
    """The classes' information amounts over the refreshes, a panel for each run."""
    shown = [(run, run.history) for run in runs if run.history is not None]
    if not shown:
        return "No run has an information.jsonl with the information amounts of these classes."
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    few = len(runs[0].classes) <= FEW_CLASSES
    height = max(3.6, 0.135 * len(runs[0].classes) + 1) if few else 3.4
    figure = new_figure(0.5 + height * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(shown) :]:
        ax.remove()
    ends = []
    for ax, (run, history) in zip(axes, shown, strict=False):
        ends.append((ax, run, *_history(ax, run, history)))
    group_legend(figure, runs[0])
    freeze(figure)
    for ax, run, x, y, members in ends:
        ax.texts[0].remove()  # it kept the room
        colors, names = class_colors(run), run.class_names
        texts = [shorten(names[k], 16) for k in members]
        label_ends(ax, x, y, texts, [colors[k] for k in members], 7.5)
    labelled = "" if few else " The five largest and the five smallest at the end are named."
    last = [history.information[-1] for _, history in shown]
    ranges = [
        f"{run.name} at the end {np.nanmin(bits):.1f} to {np.nanmax(bits):.1f} bits"
        for (run, _), bits in zip(shown, last, strict=True)
        if np.isfinite(bits).any()
    ]
    return Drawing(
        "information_history",
        figure,
        "Information amount of every class at each refresh during training; the numbers at the top "
        f"count the refreshes.{labelled}",
        f"Information amounts of the classes over training; {'; '.join(ranges) or 'none known'}.",
    )


def margin_matrix(history: InformationHistory, members: Sequence[int]) -> np.ndarray:
    """(M, M) margins in degrees of the classes `members`: row i is added to when i is the truth.

    m_ij = sign max(0, u_i - u_j), zero where a potential is not known.
    """
    u = history.potentials[list(members)]
    rise = np.nan_to_num(u[:, None] - u[None, :], nan=0.0)
    return history.margin_sign * np.degrees(np.maximum(rise, 0)) + 0.0


def margins(run: Run, name: str = "margins") -> Drawing | str:
    """The margins of some classes as a matrix, and all as a histogram, in a figure of that name."""
    history = run.history
    if history is None or history.potentials is None:
        return f"{run.name} has no margins: its information.jsonl holds no potentials."
    num_classes = len(run.classes)
    if num_classes == 1:
        return f"{run.name} has no margins: it has a single class."
    order, _, counted = by_frequency(run)
    some = num_classes > MATRIX_CLASSES
    members = np.concatenate([order[:10], order[-10:]]) if some else order
    matrix = margin_matrix(history, members)
    figure = new_figure(5.2 if len(members) > 8 else 4.2)
    ax, histogram = figure.subplots(1, 2, width_ratios=(1.25, 1))
    subtracted = history.margin_sign < 0
    largest = float(np.abs(matrix).max(initial=0))
    drawn = np.ma.masked_equal(np.abs(matrix), 0)
    mesh = ax.pcolormesh(drawn, cmap=HEAT_MAP, vmin=0, vmax=max(largest, 1e-6))
    names = [shorten(run.class_names[k], 16) for k in members]
    matrix_ticks(ax, names, names, turned=True)
    ax.set(xlabel="other class", ylabel="true class")
    if some:  # between the ten with most and the ten with fewest
        ax.axhline(10, color=INK, lw=1)
        ax.axvline(10, color=INK, lw=1)
        which = f"10 classes with most\nand the 10 with fewest {counted}"
        which = which if counted else "first 10 and\nthe last 10 classes"
        ax.set_title(f"Margins{' (sign reversed)' * subtracted} of the {which}")
    else:
        ax.set_title(f"Margin between two classes (degrees{', sign reversed' * subtracted})")
    if len(members) <= NUMBERED_CELLS:
        matrix_numbers(ax, np.abs(matrix), largest, "{:.0f}" if largest >= 20 else "{:.1f}")
    else:
        sign = NEGATIVE if subtracted else ""
        bar = figure.colorbar(mesh, ax=ax, shrink=0.8, label=f"{sign}margin (degrees)")
        bar.outline.set_lw(0)
        bar.solids.set(rasterized=False, edgecolor="none")  # as pixels it would not turn dark
    every = margin_matrix(history, range(num_classes))[~np.eye(num_classes, dtype=bool)]
    positive = np.abs(every[every != 0])
    zero = 1 - len(positive) / max(len(every), 1)
    histogram.set_title(f"All {len(every):,} margins\n{100 * zero:.0f} % are zero; the others:")
    if len(positive):
        bins = int(np.clip(1.5 * len(positive) ** 0.5, 8, 50))
        histogram.hist(positive, bins=bins, color=HEAT)
        histogram.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        histogram.set(xlabel="margin (degrees)", ylabel="pairs of classes")
        histogram.yaxis.set_major_formatter(THOUSANDS)
    else:
        nothing(histogram, "none")
    does, effect = "adds to", "may be that much nearer to"
    if subtracted:
        does, effect = "subtracts from", "must be that much farther from"
    return Drawing(
        name,
        figure,
        f"Left, what the loss {does} the angle between an object of a class (row) and another "
        f"class (column): the class with more information {effect} the other. "
        "Empty cells are zero. Right, how often each margin occurs.",
        f"Margins of {run.name}: {100 * zero:.0f} % of {len(every):,} are zero, the largest is "
        f"{positive.max(initial=0):.1f} degrees.",
    )


def matrix_ticks(ax: Axes, rows: Sequence[str], columns: Sequence[str], *, turned: bool) -> None:
    """Names in the middle of the cells, the first row at the top, and lines between the cells."""
    turn = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, color=INK, fontsize=8)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, color=INK, fontsize=8, **turn)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.hlines(np.arange(len(rows) + 1), 0, len(columns), color=GRID, lw=0.7)
    ax.vlines(np.arange(len(columns) + 1), 0, len(rows), color=GRID, lw=0.7)
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0))


def matrix_numbers(ax: Axes, values: np.ndarray, largest: float, form: str) -> None:
    """Each value that is not zero in its cell."""
    for (i, j), value in np.ndenumerate(values):
        if value != 0:
            style = {"color": PAPER if value > 0.65 * largest else INK, "fontsize": 7.5}
            ax.text(j + 0.5, i + 0.5, form.format(value), ha="center", va="center", **style)


def _history(
    ax: Axes, run: Run, history: InformationHistory
) -> tuple[float, np.ndarray, list[int]]:
    """Lines; returns where they end: x, heights, and the classes to name there."""
    x, y = history.iterations, history.information
    few = y.shape[1] <= FEW_CLASSES
    for _, color, marker, members in group_styles(run):
        if few or len(x) == 1:
            style = {
                "color": color,
                "marker": marker if len(x) < 25 else None,
                "ms": 3.5,
                "lw": 1.3,
            }
            ax.plot(x, y[:, members], rasterized=not few, **style)
        else:
            lines = [np.column_stack([x, y[:, k]]) for k in members]
            ax.add_collection(
                LineCollection(lines, color=color, lw=0.5, alpha=0.45, rasterized=True)
            )
    ax.autoscale_view()
    last = y[-1]
    known = np.flatnonzero(np.isfinite(last))
    members = known[np.argsort(last[known], kind="stable")]
    members = members if few else np.unique(np.concatenate([members[:5], members[-5:]]))
    missing = int((~np.isfinite(last)).sum())
    title = run_name(run)
    ax.set_title(
        title + (f"  \N{MIDDLE DOT}  {missing:,} without an estimate" if missing else ""), pad=24
    )
    ax.set(xlabel="iteration", ylabel="information amount (bits)")
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(THOUSANDS)
    top = ax.secondary_xaxis("top")
    every = -(-len(x) // 8)
    top.xaxis.set_major_locator(FixedLocator(list(x[every - 1 :: every])))
    top.xaxis.set_major_formatter(
        lambda value, _, places=x: f"{1 + int(np.abs(places - value).argmin())}"
    )
    top.spines["top"].set_visible(False)
    top.tick_params(length=2, labelsize=8)
    # Room for the names, which the layout does not know of yet
    width = max((len(shorten(run.class_names[k], 16)) for k in members), default=0)
    ax.text(1.03, 0.5, "n" * width, transform=ax.transAxes, fontsize=7.5, alpha=0)
    return float(x[-1]), last[members], members.tolist()
