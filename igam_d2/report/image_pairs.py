"""Ground truth beside the detections of runs, drawn on an image of any size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from .matching import CORRECT, NO_OBJECT, NOT_JUDGED, WRONG_CLASS, pairwise_iou
from .style import INK, MUTED, shorten

# Okabe and Ito's and Tol's colours: distinct to the colour-blind, and bright enough on photos.
CLASS_COLORS = (
    "#E69F00", "#56B4E9", "#009E74", "#F0E442", "#0072B3", "#D55E01",
    "#CC79A7", "#DDCC77", "#332289", "#88CCEE", "#882256", "#999933",
)  # fmt: skip
LINE_STYLES = {
    CORRECT: "-",
    WRONG_CLASS: (0, (5, 2.5)),
    NO_OBJECT: (0, (1, 1.8)),
    NOT_JUDGED: (0, (6, 2, 1, 2)),
}
LINE_MEANING = {
    CORRECT: "correct class, IoU \N{GREATER-THAN OR EQUAL TO} 0.5",
    WRONG_CLASS: "\N{BALLOT X} wrong class",
    NO_OBJECT: "duplicate or no annotated object",
    NOT_JUDGED: "? class not annotated there",
}
MAX_DRAWN_BOXES = 15
PHOTO_DPI = 150


@dataclass(frozen=True)
class LabeledBox:
    """A box (x, y, width, height in pixels) of a class; ground truth has no score."""

    xywh: tuple[float, float, float, float]
    class_index: int
    score: float | None = None
    verdict: int = CORRECT


@dataclass(frozen=True)
class Panel:
    """One drawing of a picture: its title, and boxes, the first of which choose first."""

    title: str
    boxes: list[LabeledBox]


def class_palette(panels: Sequence[Panel]) -> dict[int, str]:
    """A colour for every class in sight, the first panel's first: they repeat none if they can."""
    order = dict.fromkeys(k for p in panels for k in sorted({b.class_index for b in p.boxes}))
    return {k: CLASS_COLORS[i % len(CLASS_COLORS)] for i, k in enumerate(order)}


def draw_panel(
    figure: Figure,
    slot: tuple[float, float, float, float],
    picture: Image.Image,
    panel: Panel,
    names: Sequence[str],
    palette: dict[int, str],
    *,
    title_size: float = 9.5,
    label_size: float | None = None,
) -> None:
    """Draw a picture with its boxes.

    Args:
        slot: left, top, width, height in inches from the figure's upper left corner.
        names: of the classes.
    """
    ax, scale = _image_axes(figure, slot, picture)
    ax.set_title(panel.title, loc="left", fontsize=title_size, weight="normal", color=INK, pad=4)
    boxes = panel.boxes[:MAX_DRAWN_BOXES]
    size = label_size or (9 if len(boxes) <= 8 else 7.5)
    _draw_boxes(ax, scale, boxes, names, palette, size)


def line_style_handles(*, judges_all: bool) -> list[Line2D]:
    """For the legend of what a box's line says."""
    return [
        Line2D([], [], color=MUTED, lw=2, ls=style, label=LINE_MEANING[verdict])
        for verdict, style in LINE_STYLES.items()
        if verdict != NOT_JUDGED or not judges_all
    ]


def _label(box: LabeledBox, names: Sequence[str]) -> str:
    cross = {WRONG_CLASS: "\N{BALLOT X} ", NOT_JUDGED: "? "}.get(box.verdict, "")
    score = "" if box.score is None else f" {box.score:.2f}"
    return cross + shorten(names[box.class_index], 18) + score


def _image_axes(
    figure: Figure, slot: tuple[float, float, float, float], picture: Image.Image
) -> tuple[Axes, float]:
    """Axes over the picture whose data units are pixels of the figure, and figure pixels per pixel.

    The picture is resampled here, once, to the pixels it gets in print.
    """
    left, top, width, height = slot
    scale = min(width / picture.width, height / picture.height) * figure.dpi
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    inches = np.array(size) / figure.dpi
    figure_width, figure_height = figure.get_size_inches()
    ax = figure.add_axes(
        (
            left / figure_width,
            1 - (top + inches[1]) / figure_height,
            inches[0] / figure_width,
            inches[1] / figure_height,
        )
    )
    pixels = tuple(max(1, round(s * PHOTO_DPI / figure.dpi)) for s in size)
    resized = picture.resize(pixels, Image.Resampling.LANCZOS)
    ax.imshow(np.asarray(resized), extent=(0, size[0], size[1], 0), interpolation="none")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax, scale


def _draw_boxes(
    ax: Axes,
    scale: float,
    boxes: Sequence[LabeledBox],
    names: Sequence[str],
    palette: dict[int, str],
    font_size: float,
) -> None:
    """Boxes and then, where there is room, their labels: the first boxes choose first."""
    for box in boxes:
        x, y, width, height = (scale * v for v in box.xywh)
        line = 1.5 if box.verdict in (NO_OBJECT, NOT_JUDGED) else 2.2
        rectangle = Rectangle(
            (x, y), width, height, fill=False, ec=palette[box.class_index], lw=line,
            ls=LINE_STYLES[box.verdict],
        )  # fmt: skip
        dark_edge = patheffects.Stroke(linewidth=line + 1.4, foreground=(0, 0, 0, 0.55))
        rectangle.set_path_effects([dark_edge, patheffects.Normal()])
        ax.add_patch(rectangle)
    taken: list[np.ndarray] = []
    for box in boxes:
        color = palette[box.class_index]
        frame = {"boxstyle": "square,pad=0.18", "fc": (color, 0.9), "ec": "#00000070", "lw": 0.5}
        style = {"fontsize": font_size, "color": _readable_on(color), "bbox": frame}
        text = ax.text(0, 0, _label(box, names), va="top", zorder=4, **style)
        extent = text.get_window_extent(ax.figure.canvas.get_renderer())
        pad = 0.18 * font_size * ax.figure.dpi / 72 + 1
        size = np.array([extent.width, extent.height]) + 2 * pad
        place = _free_place(scale * np.array(box.xywh), size, ax, taken)
        text.set_position((place[0] + pad, place[1] + pad))
        taken.append(place)


def _free_place(
    xywh: np.ndarray, size: np.ndarray, ax: Axes, taken: list[np.ndarray]
) -> np.ndarray:
    """Where a label (width, height) of a box overlaps no other, or least: x, y, width, height."""
    x, y, width, height = xywh
    limits = np.array([ax.get_xlim()[1], ax.get_ylim()[0]])
    places = [
        np.concatenate([np.clip((px, py), 0, np.maximum(limits - size, 0)), size])
        for py in (y - size[1], y + height, y, y + height - size[1], y + (height - size[1]) / 2)
        for px in (x, x + width - size[0])
    ]
    others = np.array(taken).reshape(-1, 4)
    overlaps = [pairwise_iou(place[None], others).sum() for place in places]
    return places[int(np.argmin(overlaps))]


def _readable_on(color: str) -> str:
    red, green, blue = to_rgb(color)
    # Neither is a colour of the page: they stay as they are in the dark
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#fefefe"
