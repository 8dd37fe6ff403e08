"""Labels that do not cover one another."""

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from .style import EDGE, PAPER

RADII = (5.0, 11.0, 18.0, 27.0, 38.0, 52.0)  # pixels from a point to its label
ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)
HALO = [patheffects.withStroke(linewidth=2, foreground=PAPER)]


def spread(positions: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Move (N,) positions as little as possible (least squares) so that none is closer than `gap`
    to the next and all are in [low, high], if that has the room for them.
    """
    if not len(positions):
        return np.zeros(0)
    steps = gap * np.arange(len(positions))
    order = np.argsort(positions, kind="stable")
    # With steps taken off, "at least a gap apart" is "not decreasing".
    moved = isotonic_regression(np.asarray(positions, dtype=np.float64)[order] - steps).x
    moved = np.clip(moved, low, max(low, high - steps[-1])) + steps
    result = np.empty(len(positions))
    result[order] = moved
    return result


def label_ends(
    ax: Axes, x: float, y: Sequence[float], texts: Sequence[str], colors: Sequence[str], size: float
) -> None:
    """Write texts beside the right spine at heights y in data units. The layout must be frozen."""
    to_pixels = ax.transData.transform
    heights = to_pixels(np.column_stack([np.full(len(y), x), y]))[:, 1]
    box, dpi = ax.bbox, ax.figure.dpi
    gap = 1.22 * size * dpi / 72
    moved = spread(heights, gap, box.y0 + gap / 2, box.y1 - gap / 2)
    for value, place, text, color in zip(
        y, (moved - box.y0) / box.height, texts, colors, strict=True
    ):
        ax.annotate(
            text, (x, value), xytext=(1.025, place), textcoords="axes fraction", color=color,
            fontsize=size, va="center", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": EDGE, "lw": 0.5,
                "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def label_points(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[str],
    size: float,
    lines: Sequence[Line2D] = (),
) -> int:
    """Write each text near its point where it covers no other, no point and none of the straight
    `lines`; those without a place are left out, and their number is returned. The layout must be
    frozen.
    """
    points = ax.transData.transform(np.column_stack([x, y]))
    box, dpi = ax.get_window_extent(), ax.figure.dpi
    limits = np.array([[box.x0, box.y0], [box.x1, box.y1]])
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    crowd = (distances < 60).sum(axis=1)
    obstacles = [points - 4, points + 4]
    for line in lines:
        ends = ax.transData.transform(line.get_xydata())
        way = ends[0] + np.linspace(0, 1, 200)[:, None] * (ends[-1] - ends[0])
        obstacles = [np.vstack([obstacles[0], way - 1]), np.vstack([obstacles[1], way + 1])]
    taken = np.column_stack(obstacles)  # (M, 4): left, low, right, high
    renderer, left_out = ax.figure.canvas.get_renderer(), 0
    for i in np.argsort(-crowd, kind="stable"):
        text = ax.annotate(
            texts[i], (x[i], y[i]), xytext=(0, 0), textcoords="offset points", fontsize=size,
            color=colors[i], ha="center", va="center", path_effects=HALO, annotation_clip=False,
        )  # fmt: skip
        extent = text.get_window_extent(renderer)
        half = np.array([extent.width + 4, extent.height]) / 2
        place = _free_place(points[i], half, taken, limits)
        if place is None:
            text.remove()
            left_out += 1
            continue
        offset = (place - points[i]) * 72 / dpi
        text.set_position(offset)
        if np.hypot(*np.maximum(np.abs(place - points[i]) - half, 0)) > RADII[1]:
            ax.annotate(
                "", (x[i], y[i]), xytext=offset, textcoords="offset points", zorder=1,
                arrowprops={"arrowstyle": "-", "color": EDGE, "lw": 0.6, "shrinkA": 4},
            )  # fmt: skip
        taken = np.vstack([taken, np.concatenate([place - half, place + half])])
    return left_out


def _free_place(
    point: np.ndarray, half: np.ndarray, taken: np.ndarray, limits: np.ndarray
) -> np.ndarray | None:
    """The nearest middle of a label (half its width and height) that touches nothing taken."""
    for radius in RADII:
        for angle in ANGLES:
            way = np.array([np.cos(angle), np.sin(angle)])
            middle = point + way * (radius + half * np.minimum(1, 1.6 * np.abs(way)))
            low, high = middle - half, middle + half
            if (low < limits[0]).any() or (high > limits[1]).any():
                continue
            apart = (
                (taken[:, 0] >= high[0]) | (taken[:, 2] <= low[0])
                | (taken[:, 1] >= high[1]) | (taken[:, 3] <= low[1])
            )  # fmt: skip
            if apart.all():
                return middle
    return None
