"""One picture of a run: what it detects, how well by class, and how it learnt."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from .image_pairs import GRAY, aspect_ratio, class_colors, draw_pair, line_style_handles, shorten
from .run_folder import LearningCurve, Run, Sample, load_run

__all__ = ["Run", "draw_run", "load_run"]

WIDTH, DPI = 16.0, 120  # inches, pixels an inch
MARGIN, HEADER, PAIR_GAP, PANEL_GAP = 0.45, 1.3, 0.4, 0.08  # inches
PLOT_HEADER = 0.8  # inches
MAX_BAR_CLASSES, MAX_NAME = 30, 24
MAX_ASPECT = 1.1  # height over width of a panel; taller images are made narrower
HEADLINES = ("AP", "AP50", "APr", "APc", "APf")
GROUPS = {"f": ("frequent", "#0072B2"), "c": ("common", "#009E73"), "r": ("rare", "#D55E00")}
MIDDLE_OF_GROUP = "middle of a group (median across, mean upwards)"
UNGROUPED = ("all classes", "#666666")
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")
DARK = "#222222"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.parse_math": False,  # names may have a $
}


def draw_run(run: Run, path: str | Path, *, score_threshold: float = 0.3) -> Path:
    """Draw a run into one PNG, 1,920 pixels wide; returns its path.

    Args:
        run: of :func:`load_run`.
        path: of the PNG; its folder is made.
        score_threshold: detections with a lower score are not drawn.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        samples = sorted(run.samples, key=aspect_ratio)  # equal shapes share a row
        rows = [samples[i : i + 2] for i in range(0, len(samples), 2)]
        panel = (WIDTH - 2 * MARGIN - PAIR_GAP - 2 * PANEL_GAP) / 4
        heights = [panel * np.clip(aspect_ratio(row[-1]), 0.3, MAX_ASPECT) for row in rows]
        bar_rows = len(run.classes) if len(run.classes) <= MAX_BAR_CLASSES else 0
        plot_height = float(np.clip(0.27 * bar_rows, 3.6, 7.0))
        plot_top = HEADER + 0.45 + sum(heights) + 0.4 * len(rows)
        height = plot_top + PLOT_HEADER + plot_height + 0.75
        figure = Figure(figsize=(WIDTH, round(height, 2)), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        _draw_header(figure, run)
        _draw_samples(figure, run, rows, heights, panel, score_threshold)
        _draw_plots(figure, run, plot_top + PLOT_HEADER, plot_height)
        figure.savefig(path)
    return path


def _text(figure: Figure, left: float, top: float, text: str, **kwargs) -> None:
    """Text whose place is in inches from the upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **kwargs)


def _draw_header(figure: Figure, run: Run) -> None:
    size = min(22, 22 * 36 / max(len(run.name), 1))  # up to the metrics
    _text(figure, MARGIN, 0.62, run.name, fontsize=size, weight="bold", color=DARK)
    counts = f"{len(run.classes):,} classes"
    instances = sum(record["val_instances"] for record in run.classes)
    line = f"{run.dataset}  \N{MIDDLE DOT}  {counts}, {instances:,} instances"
    _text(figure, MARGIN, 0.95, line, fontsize=11, color=GRAY)
    _text(figure, MARGIN, 1.2, run.missing, fontsize=9, color=GRAY)
    tasks = [task for task in ("bbox", "segm") if task in run.metrics]
    colors = {f"AP{key}": color for key, (_, color) in GROUPS.items()}
    for i, name in enumerate(HEADLINES):
        left = WIDTH - MARGIN - 1.25 * (len(HEADLINES) - 1 - i)
        color = colors.get(name, DARK)
        kwargs = {"ha": "right", "color": color}
        value = _percent(run.metrics[tasks[0]].get(name))
        _text(figure, left, 0.62, value, fontsize=22, weight="bold", **kwargs)
        label = name if i or len(tasks) == 1 else f"box {name}"
        _text(figure, left, 0.86, f"{label} (%)", fontsize=10, **kwargs)
        if len(tasks) == 2:
            value = _percent(run.metrics["segm"].get(name))
            _text(figure, left, 1.1, f"mask {value}", fontsize=10, **kwargs)


def _draw_samples(
    figure: Figure,
    run: Run,
    rows: list[list[Sample]],
    heights: list[float],
    panel: float,
    score_threshold: float,
) -> None:
    if not rows:
        return
    names = [record["name"] for record in run.classes]
    colors = class_colors(run.samples, score_threshold)
    width, height = figure.get_size_inches()
    top = HEADER + 0.15
    _text(figure, MARGIN, top, "Validation images", fontsize=13, weight="bold", color=DARK)
    figure.legend(
        handles=line_style_handles(), ncols=3, frameon=False, fontsize=9.5, handlelength=3,
        loc="center right", bbox_to_anchor=(1 - MARGIN / width, 1 - (top - 0.06) / height),
        borderaxespad=0,
    )  # fmt: skip
    top += 0.42
    for row, row_height in zip(rows, heights, strict=True):
        left = MARGIN
        for sample in row:
            slots = tuple(
                (left + i * (panel + PANEL_GAP), top, panel, row_height) for i in range(2)
            )
            draw_pair(figure, slots, sample, names, colors, score_threshold)
            left += 2 * panel + PANEL_GAP + PAIR_GAP
        top += row_height + 0.4


def _draw_plots(figure: Figure, run: Run, top: float, plot_height: float) -> None:
    """The lower part, from `top` inches on."""
    width, height = figure.get_size_inches()
    bars = len(run.classes) <= MAX_BAR_CLASSES
    longest = max((len(record["name"]) for record in run.classes), default=0)
    left = MARGIN + (0.15 + 0.075 * min(longest, MAX_NAME) if bars else 0.45)
    _text(figure, MARGIN, top - 0.5, "Classes", fontsize=13, weight="bold", color=DARK)
    groups = _groups(run)
    handles = [
        Line2D([], [], marker="s", ls="", ms=8, color=color, label=f"{name} ({len(members)})")
        for name, color, members in groups
    ]
    if not bars:
        handles.append(Line2D([], [], marker="D", ls="", ms=8, color=GRAY, label=MIDDLE_OF_GROUP))
    figure.legend(
        handles=handles, ncols=len(handles), frameon=False, fontsize=10, handletextpad=0.2,
        loc="center left", borderaxespad=0,
        bbox_to_anchor=((MARGIN + 1.0) / width, 1 - (top - 0.56) / height),
    )  # fmt: skip
    ratios = [1.0] * (3 if run.information is not None else 2) + [1.0] * (run.curve is not None)
    grid = figure.add_gridspec(
        1, len(ratios), width_ratios=ratios, wspace=0.18 if bars else 0.27,
        left=left / width, right=1 - MARGIN / width,
        top=1 - top / height, bottom=1 - (top + plot_height) / height,
    )  # fmt: skip
    (_draw_bars if bars else _draw_scatter)(figure, run, grid)
    if run.curve is not None:
        _draw_curve(figure, run.curve, grid[0, -1])


def _groups(run: Run) -> list[tuple[str, str, np.ndarray]]:
    """(name, colour, class indices) of the frequency groups that have classes."""
    keys = np.array([record["frequency"] or "" for record in run.classes])
    groups = [(*GROUPS[key], np.flatnonzero(keys == key)) for key in GROUPS]
    groups.append((*UNGROUPED, np.flatnonzero(~np.isin(keys, list(GROUPS)))))
    return [group for group in groups if len(group[2])]


def _column(run: Run, key: str) -> np.ndarray:
    """(K,) floats of the class records, NaN for null; "AP" is the first task's."""
    values = [record[key] for record in run.classes]
    if key == "AP":
        values = [next(iter(value.values()), None) for value in values]
    return np.array(values, dtype=np.float64)


def _draw_bars(figure: Figure, run: Run, grid) -> None:
    """A row for every class, the class with most training images at the top."""
    images = _column(run, "image_count")
    order = np.argsort(-np.nan_to_num(images), kind="stable")
    row_of = np.argsort(order)
    columns = [
        ("Training images", "images (log scale)", images, "{:,.0f}", "unknown"),
        ("AP", "AP (%), line: mean of the group", _column(run, "AP"), "{:.1f}", "no ground truth"),
    ]
    if run.information is not None:
        columns.append(("Information amount", "bits", run.information, "{:.1f}", "no estimate"))
    for i, (title, label, values, form, unknown) in enumerate(columns):
        ax = figure.add_subplot(grid[0, i])
        ax.set(title=title, xlabel=label, ylim=(len(run.classes) - 0.4, -0.6))
        ax.grid(axis="y", visible=False)
        log = i == 0 and np.nanmax(values, initial=0) > 0
        if log:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(THOUSANDS)
            ax.xaxis.set_minor_locator(NullLocator())
            low = 0.5  # a bar for one image is seen too, and none for no image
            ax.set_xlim(low, np.nanmax(values) * (np.nanmax(values) / low) ** 0.2)
        else:
            ax.set_xlim(0, 1.18 * max(np.nanmax(values, initial=0), 1))
        for _, color, members in _groups(run):
            ax.barh(row_of[members], np.nan_to_num(values[members]), 0.7, color=color)
            if title == "AP" and np.isfinite(values[members]).any() and len(members) > 1:
                mean, rows = np.nanmean(values[members]), row_of[members]
                ax.plot([mean] * 2, [rows.min() - 0.5, rows.max() + 0.5], color=DARK, lw=1.2)
        for row, value in zip(row_of, values, strict=True):
            known = np.isfinite(value)
            x = max(value, ax.get_xlim()[0]) if known else ax.get_xlim()[0]
            frame = {"boxstyle": "square,pad=0.1", "fc": (1, 1, 1, 0.85), "ec": "none"}
            style = {"color": "#333333" if known else "#999999", "fontsize": 8.5, "bbox": frame}
            text = form.format(value) if known else unknown
            offset = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(text, (x, row), zorder=5, **offset, **style)
        ax.tick_params(axis="y", length=0)
        names = [shorten(run.classes[k]["name"], MAX_NAME) for k in order]
        ax.set_yticks(range(len(order)), names if i == 0 else [""] * len(order), color=DARK)
        ax.spines["left"].set_visible(False)


def _draw_scatter(figure: Figure, run: Run, grid) -> None:
    """A point for every class: AP and information amount over training images, and both."""
    images = ("training images (log scale)", _column(run, "image_count"))
    ap = ("AP (%)", _column(run, "AP"))
    plots = [("AP by training images", images, ap)]
    if run.information is not None:
        information = ("information amount (bits)", run.information)
        plots.append(("Information by training images", images, information))
        plots.append(("AP by information", information, ap))
    for i, (title, (xlabel, x), (ylabel, y)) in enumerate(plots):
        ax = figure.add_subplot(grid[0, i] if len(plots) > 1 else grid[0, :2])
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
        alpha = 0.8 if len(run.classes) < 200 else 0.45
        for _, color, members in _groups(run):
            ax.scatter(x[members], y[members], 16, color=color, alpha=alpha, lw=0)
            both = members[np.isfinite(x[members]) & np.isfinite(y[members])]
            if len(both) > 1:
                middle = (np.median(x[both]), y[both].mean())
                ax.scatter(
                    *middle, 90, color=color, edgecolor="white", lw=1.5, marker="D", zorder=4
                )
        if x is images[1] and np.nanmax(x, initial=0) > 0:
            ax.set_xscale("symlog", linthresh=1)
            ax.set_xlim(left=-0.15 if np.nanmin(x) < 1 else 0.8)
            ax.xaxis.set_major_formatter(THOUSANDS)


def _draw_curve(figure: Figure, curve: LearningCurve, spot: SubplotSpec) -> None:
    upper, lower = spot.subgridspec(2, 1, hspace=0.45)
    curves = (
        (upper, "Total loss", "loss", curve.total_loss),
        (lower, "Foreground accuracy", "%", 100 * curve.foreground_accuracy),
    )
    for place, title, unit, values in curves:
        known = np.isfinite(values)
        x, y = curve.iterations[known], values[known]
        ax = figure.add_subplot(place)
        last = f", at last {y[-1]:.3g}{' %' if unit == '%' else ''}" if len(y) else ": not logged"
        ax.set(title=title + last, ylabel=unit)
        ax.plot(x, y, color="#44546A", lw=1.6)
        ax.margins(x=0.02, y=0.15)
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.xaxis.set_major_formatter(THOUSANDS)
    ax.set_xlabel("iteration")


def _percent(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.1f}"
