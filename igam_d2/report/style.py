"""How every figure looks: colours by role, marks of runs and groups, sizes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from .run_folder import Run

WIDTH, DPI = 11.0, 100  # inches, pixels an inch
# Role -> on light, on dark ground. Figures are drawn in the light colours, no two of which are the
# same; in the page each is replaced by the variable of its role. Groups are Okabe and Ito's
# colours, runs near Tol's: both are told apart by the colour-blind.
THEME = {
    "paper": ("#ffffff", "#15181c"),
    "ink": ("#1f2933", "#e7eaed"),
    "muted": ("#59636e", "#a3adb7"),
    "grid": ("#e3e7eb", "#2d333a"),
    "edge": ("#98a2ac", "#69737d"),
    "heat": ("#1b5a94", "#84c1f2"),
    "group-0": ("#d55e00", "#ff8b3d"),
    "group-1": ("#009e73", "#2cc497"),
    "group-2": ("#0072b2", "#52aee6"),
    "group-3": ("#b3589a", "#e293c6"),
    "group-none": ("#6b7075", "#9ba1a7"),
    "run-0": ("#332288", "#a79df5"),
    "run-1": ("#cc5566", "#f08e9b"),
    "run-2": ("#2f9e8f", "#5fd0bf"),
    "run-3": ("#8a7f1e", "#d3c65a"),
    "run-4": ("#aa4499", "#dd87cf"),
    "run-5": ("#3f8fc4", "#84c4ef"),
    "run-6": ("#882255", "#d7709f"),
    "run-7": ("#55606b", "#b4bdc6"),
}
PAPER, INK, MUTED, GRID, EDGE, HEAT = (
    THEME[role][0] for role in ("paper", "ink", "muted", "grid", "edge", "heat")
)
GROUP_COLORS = [THEME[f"group-{i}"][0] for i in range(4)]
UNGROUPED = THEME["group-none"][0]
RUN_COLORS = [THEME[f"run-{i}"][0] for i in range(8)]
GROUP_MARKERS = "^sod"
# 7 markers and 3 lines: with 8 colours the ninth run is not again the first.
RUN_MARKERS = "osD^vPX"
RUN_LINES = ["-", (0, (5, 2)), (0, (1.2, 1.4))]
FEW_CLASSES = 30  # so many can be labelled one by one
MAX_NAME = 22
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.10g}")
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": EDGE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": EDGE,
    "ytick.color": EDGE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "text.parse_math": False,  # names may have a $
    "svg.fonttype": "path",
    "svg.hashsalt": "igam_d2",  # the same names of parts every time
}


def new_figure(height: float) -> Figure:
    """An empty figure, so many inches high, that finds its own layout."""
    figure = Figure(figsize=(WIDTH, round(height, 2)), dpi=DPI, facecolor=PAPER)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    FigureCanvasAgg(figure)
    return figure


def freeze(figure: Figure) -> None:
    """Find the layout now and keep it, for what is placed by pixels."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def run_style(i: int) -> dict:
    """Colour, marker and line of the i-th run."""
    return {
        "color": RUN_COLORS[i % len(RUN_COLORS)],
        "marker": RUN_MARKERS[i % len(RUN_MARKERS)],
        "ls": RUN_LINES[i % len(RUN_LINES)],
    }


def run_legend(
    figure: Figure,
    runs: Sequence[Run],
    drawn: Sequence[int] | None = None,
    *,
    line: bool,
    marker: bool,
) -> None:
    """Over the figure, a mark for each of several runs; a single run needs none.

    Only the runs with these indices are drawn; None is all.
    """
    if len(runs) < 2:
        return
    handles = []
    for i in range(len(runs)) if drawn is None else drawn:
        run, style = runs[i], run_style(i)
        style |= {} if line else {"ls": "none"}
        style |= {} if marker else {"marker": "none"}
        handles.append(Line2D([], [], ms=6.5, lw=2, label=run_name(run, 48), **style))
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(140 / (longest + 8))))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, handlelength=3 if line else 1
    )


def group_legend(figure: Figure, run: Run) -> None:
    """Over the figure, a mark for each group."""
    if not run.groups:
        return
    handles = [
        Line2D([], [], ls="none", ms=6.5, marker=marker, color=color, label=f"{name} ({len(k)})")
        for name, color, marker, k in group_styles(run)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, handletextpad=0.1)


def nothing(ax: Axes, text: str) -> None:
    """Say in an empty plot what is missing."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED)
    ax.set_xticks([])
    ax.grid(False)


def group_styles(run: Run) -> list[tuple[str, str, str, list[int]]]:
    """(name, colour, marker, class indices) of the groups that have classes, the rarest last."""
    keys = [record["group"] for record in run.classes]
    styles = [
        (
            group["name"],
            GROUP_COLORS[i % len(GROUP_COLORS)],
            GROUP_MARKERS[i % len(GROUP_MARKERS)],
            [k for k, key in enumerate(keys) if key == group["key"]],
        )
        for i, group in enumerate(run.groups)
    ]
    known = {group["key"] for group in run.groups}
    rest = [k for k, key in enumerate(keys) if key not in known]
    styles.append(("no group" if run.groups else "classes", UNGROUPED, "o", rest))
    return [style for style in styles[::-1] if style[3]]


def by_frequency(run: Run) -> tuple[np.ndarray, np.ndarray, str]:
    """Class indices, the most frequent class first; the classes' numbers; and what was counted.

    Where no training instances are known, it is validation objects; without these nothing, "".
    """
    for key, counted in (
        ("instance_count", "training instances"),
        ("val_instances", "validation objects"),
    ):
        counts = run.column(key)
        if np.isfinite(counts).any():
            return np.argsort(-np.nan_to_num(counts), kind="stable"), counts, counted
    return np.arange(len(counts)), counts, ""


def class_colors(run: Run) -> list[str]:
    """(K,) the colour of each class's group."""
    colors = {k: color for _, color, _, members in group_styles(run) for k in members}
    return [colors[k] for k in range(len(run.classes))]


def shorten(name: str, length: int = MAX_NAME) -> str:
    """A class name as text, not longer than so many letters."""
    name = name.replace("_", " ").strip()
    return name if len(name) <= length else name[: length - 1].strip() + "\N{HORIZONTAL ELLIPSIS}"


def run_name(run: Run, length: int = 40) -> str:
    """A run's name, not longer than so many letters: the end, which tells it from others."""
    name = run.name
    return name if len(name) <= length else "\N{HORIZONTAL ELLIPSIS}" + name[1 - length :]


def signed(value: float, digits: int = 1) -> str:
    """A difference: "+1.2", with a minus sign that is as wide as the plus; "0.0" has none."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", "\N{MINUS SIGN}")


def coefficient(value: float | None) -> str:
    """A correlation as in tables: "-.52"."""
    if value is None or value != value:
        return "\N{EN DASH}"
    value = round(float(value), 2) + 0.0  # a zero without a minus sign
    text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return text.replace("-", "\N{MINUS SIGN}")
