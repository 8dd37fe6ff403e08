"""Ground truth beside detections, drawn on an image of any size."""

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from .run_folder import LabeledBox, Sample

# Okabe and Ito's and Tol's colours: distinct to the colour-blind, and bright enough on photos.
CLASS_COLORS = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00",
    "#CC79A7", "#DDCC77", "#332288", "#88CCEE", "#882255", "#999933",
)  # fmt: skip
CORRECT, WRONG_CLASS, NO_OBJECT = "correct", "wrong class", "no object"
LINE_STYLES = {CORRECT: "-", WRONG_CLASS: (0, (5, 2.5)), NO_OBJECT: (0, (1, 1.8))}
LINE_MEANING = {
    CORRECT: "correct class, IoU \N{GREATER-THAN OR EQUAL TO} 0.5",
    WRONG_CLASS: "\N{BALLOT X} wrong class",
    NO_OBJECT: "duplicate or no annotated object",
}
MATCH_IOU = 0.5
MAX_DRAWN_BOXES = 15
GRAY = "#666666"


def aspect_ratio(sample: Sample) -> float:
    """Height over width."""
    with Image.open(sample.path) as image:  # reads no more than the header
        return image.height / image.width


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) in x, y, width, height: (N, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:])[None])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    union = boxes[:, 2:].prod(axis=1)[:, None] + others[:, 2:].prod(axis=1)[None] - intersection
    return intersection / np.maximum(union, 1e-9)


def judge_detections(
    detections: Sequence[LabeledBox], ground_truth: Sequence[LabeledBox]
) -> list[str]:
    """CORRECT, WRONG_CLASS or NO_OBJECT of each detection; an object is found once."""
    verdicts = [NO_OBJECT] * len(detections)
    if not detections or not ground_truth:
        return verdicts
    iou = pairwise_iou(_xywh(detections), _xywh(ground_truth))  # (N, M)
    same = np.equal.outer(
        [box.class_index for box in detections], [box.class_index for box in ground_truth]
    )
    free = np.ones(len(ground_truth), dtype=bool)
    for i in np.argsort([-box.score for box in detections], kind="stable"):
        candidates = np.where(same[i] & free, iou[i], 0)
        if candidates.max() >= MATCH_IOU:
            verdicts[i] = CORRECT
            free[candidates.argmax()] = False
        elif iou[i].max() >= MATCH_IOU and not same[i][iou[i].argmax()]:
            verdicts[i] = WRONG_CLASS
    return verdicts


def class_colors(samples: Sequence[Sample], score_threshold: float) -> dict[int, str]:
    """A colour for every class in sight, ground truth first so that it repeats none if it can."""
    annotated = {box.class_index for s in samples for box in s.ground_truth}
    detected = {
        box.class_index for s in samples for box in s.detections if box.score >= score_threshold
    }
    order = sorted(annotated) + sorted(detected - annotated)
    return {c: CLASS_COLORS[i % len(CLASS_COLORS)] for i, c in enumerate(order)}


def draw_pair(
    figure: Figure,
    slots: tuple[tuple[float, float, float, float], ...],
    sample: Sample,
    names: Sequence[str],
    colors: dict[int, str],
    score_threshold: float,
) -> None:
    """Draw one image twice.

    Args:
        slots: two places (left, top, width, height) in inches from the figure's upper left corner.
        names: of the classes.
        score_threshold: detections with a lower score are left out.
    """
    picture = Image.open(sample.path).convert("RGB")
    shown = [box for box in sample.detections if box.score >= score_threshold]
    title = f"{len(shown)} detection{'s' if len(shown) != 1 else ''} "
    title += f"with score \N{GREATER-THAN OR EQUAL TO} {score_threshold:.2f}"
    if len(shown) > MAX_DRAWN_BOXES:
        title += f", best {MAX_DRAWN_BOXES} drawn"
    elif not shown and sample.detections:
        title += f" (best {sample.detections[0].score:.2f})"
    shown = shown[:MAX_DRAWN_BOXES]
    largest = sorted(sample.ground_truth, key=lambda box: -box.xywh[2] * box.xywh[3])
    for slot, boxes, verdicts, text in (
        (
            slots[0],
            largest[:MAX_DRAWN_BOXES],
            None,
            f"Ground truth  \N{MIDDLE DOT}  {sample.path.name}",
        ),
        (slots[1], shown, judge_detections(shown, sample.ground_truth), title),
    ):
        ax, scale = _image_axes(figure, slot, picture)
        ax.set_title(text, loc="left", fontsize=9.5, weight="normal", color="#333333", pad=4)
        _draw_boxes(ax, scale, boxes, verdicts or [CORRECT] * len(boxes), names, colors)


def line_style_handles() -> list[Line2D]:
    """For the legend of what a box's line says."""
    return [
        Line2D([], [], color="#333333", lw=2, ls=style, label=LINE_MEANING[verdict])
        for verdict, style in LINE_STYLES.items()
    ]


def shorten(name: str, length: int) -> str:
    """A class name as text, not longer than so many letters."""
    name = name.replace("_", " ").strip()
    return name if len(name) <= length else name[: length - 1].strip() + "\N{HORIZONTAL ELLIPSIS}"


def _label(box: LabeledBox, verdict: str, names: Sequence[str]) -> str:
    cross = "\N{BALLOT X} " if verdict == WRONG_CLASS else ""
    score = "" if box.score is None else f" {box.score:.2f}"
    return cross + shorten(names[box.class_index], 18) + score


def _image_axes(
    figure: Figure, slot: tuple[float, float, float, float], picture: Image.Image
) -> tuple[Axes, float]:
    """Axes over the picture whose data units are pixels of the figure, and figure pixels per pixel.

    The picture is resampled here, once, to exactly the pixels it gets.
    """
    left, top, width, height = slot
    scale = min(width / picture.width, height / picture.height) * figure.dpi
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    inches = np.array(size) / figure.dpi
    figure_width, figure_height = figure.get_size_inches()
    left += (width - inches[0]) / 2
    ax = figure.add_axes(
        (
            left / figure_width,
            1 - (top + inches[1]) / figure_height,
            inches[0] / figure_width,
            inches[1] / figure_height,
        )
    )
    resized = picture.resize(size, Image.Resampling.LANCZOS)
    ax.imshow(np.asarray(resized), extent=(0, size[0], size[1], 0), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    return ax, scale


def _draw_boxes(
    ax: Axes,
    scale: float,
    boxes: Sequence[LabeledBox],
    verdicts: Sequence[str],
    names: Sequence[str],
    colors: dict[int, str],
) -> None:
    """Boxes and then, where there is room, their labels: the first boxes choose first."""
    for box, verdict in zip(boxes, verdicts, strict=True):
        x, y, width, height = (scale * v for v in box.xywh)
        line = 1.5 if verdict == NO_OBJECT else 2.2
        rectangle = Rectangle(
            (x, y), width, height, fill=False, ec=colors[box.class_index], lw=line,
            ls=LINE_STYLES[verdict],
        )  # fmt: skip
        dark_edge = patheffects.Stroke(linewidth=line + 1.4, foreground=(0, 0, 0, 0.55))
        rectangle.set_path_effects([dark_edge, patheffects.Normal()])
        ax.add_patch(rectangle)
    taken: list[np.ndarray] = []
    font_size = 9 if len(boxes) <= 8 else 7.5
    for box, verdict in zip(boxes, verdicts, strict=True):
        color = colors[box.class_index]
        frame = {"boxstyle": "square,pad=0.18", "fc": (color, 0.9), "ec": "#00000070", "lw": 0.5}
        style = {"fontsize": font_size, "color": _readable_on(color), "bbox": frame}
        text = ax.text(0, 0, _label(box, verdict, names), va="top", zorder=4, **style)
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
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _xywh(boxes: Sequence[LabeledBox]) -> np.ndarray:
    return np.array([box.xywh for box in boxes], dtype=np.float64).reshape(-1, 4)
