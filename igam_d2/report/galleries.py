"""Validation images and objects of rare classes, the ground truth beside each run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .drawing import Drawing
from .ground_truth import Found, GroundTruth
from .image_choice import open_image
from .image_pairs import (
    MAX_DRAWN_BOXES,
    LabeledBox,
    Panel,
    class_palette,
    draw_panel,
    line_style_handles,
)
from .matching import MATCH_IOU, judge_image, pairwise_iou
from .run_folder import Run
from .style import WIDTH, new_figure, run_name, shorten

MAX_DRAWN_RUNS = 4
PER_PAGE = 12
MARGIN, GAP, HEADER, TITLE = 0.15, 0.12, 0.36, 0.26  # inches
MAX_RARE_BOXES = 4  # in a small picture, those nearest to the object it is about
MAX_ASPECT = 1.1  # height over width of a panel; taller images are made narrower
AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"


@dataclass(frozen=True)
class Shown:
    """The runs whose detections are drawn, and which of these."""

    runs: list[Run]
    found: list[Found]
    truth: GroundTruth
    score_threshold: float

    @property
    def names(self) -> list[str]:
        return self.runs[0].class_names

    @property
    def which(self) -> str:
        return ", ".join(run.name for run in self.runs)


def detections_on(shown: Shown, image: int, number: int) -> Drawing:
    """One image: the ground truth and each run's detections."""
    truth, names = shown.truth, shown.names
    path = truth.paths[image]
    title = f"Ground truth  \N{MIDDLE DOT}  {_ending(path.name, 40 if len(shown.runs) < 2 else 22)}"
    panels = [Panel(title, _objects(truth, image))]
    for run, found in zip(shown.runs, shown.found, strict=True):
        boxes = _detections(found, truth, image, shown.score_threshold)
        text = f"{len(boxes)} with score {AT_LEAST} {shown.score_threshold:g}"
        if len(boxes) > MAX_DRAWN_BOXES:
            text += f", best {MAX_DRAWN_BOXES} drawn"
        panels.append(Panel(f"{run_name(run, 24 if len(shown.runs) > 1 else 40)}: {text}", boxes))
    picture = open_image(path)
    columns = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    width = (WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns
    height = width * float(np.clip(picture.height / picture.width, 0.25, MAX_ASPECT))
    figure = _image_figure(truth, HEADER + rows * (height + TITLE) + MARGIN)
    palette = class_palette(panels)
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        left, top = MARGIN + column * (width + GAP), HEADER + row * (height + TITLE) + TITLE
        size = 9.5 if columns < 3 else 8.5
        draw_panel(
            figure, (left, top, width, height), picture, panel, names, palette, title_size=size
        )
    words = "; ".join(
        f"{panel.title}: "
        + (
            ", ".join(shorten(names[box.class_index]) for box in panel.boxes[:MAX_DRAWN_BOXES])
            or "nothing"
        )
        for panel in panels
    )
    return Drawing(f"detections_{number}", figure, "", f"Image {path.name}. {words}.")


def rare_pages(
    shown: Shown, examples: dict[int, int], group: str, progress: Callable[[int, int], None]
) -> Iterator[Drawing]:
    """Crops around one object of each class, a dozen classes a figure.

    Args:
        examples: class -> object of the ground truth.
        progress: is told how many of how many pages are drawn.
    """
    items = list(examples.items())
    pages = [items[i : i + PER_PAGE] for i in range(0, len(items), PER_PAGE)]
    for number, page in enumerate(pages, 1):
        yield _rare_page(shown, page, number, f"{group}, page {number} of {len(pages)}")
        progress(number, len(pages))


def _rare_page(shown: Shown, page: list[tuple[int, int]], number: int, title: str) -> Drawing:
    num_panels = 1 + len(shown.runs)
    across = {2: 3, 3: 2}.get(num_panels, 1)
    group_gap = 0.22
    width = (WIDTH - 2 * MARGIN - group_gap * (across - 1)) / across
    width = (width - GAP * (num_panels - 1)) / num_panels
    height, head = min(0.8 * width, 1.6), 0.34 + 0.13 * (len(shown.runs) > 1)
    rows = -(-len(page) // across)
    figure = _image_figure(shown.truth, HEADER + rows * (height + head + 0.16))
    words = []
    for i, (k, member) in enumerate(page):
        row, column = divmod(i, across)
        left = MARGIN + column * (num_panels * (width + GAP) - GAP + group_gap)
        top = HEADER + row * (height + head + 0.16)
        panels, picture = _rare_panels(shown, k, member, height / width)
        record = shown.runs[0].classes[k]
        count = record.get("instance_count")
        name = shorten(record["name"], 30)
        known = "" if count is None else f"  ({count:,} training instance{'s' * (count != 1)})"
        _text(figure, left, top + 0.1, name + known, fontsize=8.5, weight="bold")
        palette = class_palette(panels)
        for j, panel in enumerate(panels):
            slot = (left + j * (width + GAP), top + head, width, height)
            draw_panel(
                figure, slot, picture, panel, shown.names, palette, title_size=7.5, label_size=6.5
            )
        words.append(
            f"{name}: " + ", ".join(panel.title.replace("\n", ": ") for panel in panels[1:])
        )
    return Drawing(f"rare_{number}", figure, "", f"{title}. {'; '.join(words)}.")


def _rare_panels(
    shown: Shown, k: int, member: int, aspect: float
) -> tuple[list[Panel], Image.Image]:
    """The panels of one class, in the crop's own pixels, and the crop."""
    truth = shown.truth
    image = int(truth.image[member])
    picture = open_image(truth.paths[image])
    crop = _crop(truth.box[member], picture.size, aspect)
    picture = picture.crop(crop)
    about = truth.box[member]
    panels = [Panel("Ground truth", _nearest(_inside(_objects(truth, image), crop), about, crop))]
    for run, found in zip(shown.runs, shown.found, strict=True):
        boxes = _detections(found, truth, image, shown.score_threshold)
        place = found.of(image)
        near = pairwise_iou(found.box[place], about[None])[:, 0] >= MATCH_IOU
        scores = found.score[place][near & (found.class_index[place] == k)]
        best = float(scores.max(initial=0))
        if len(scores) and best >= shown.score_threshold:
            text = f"found, {best:.2f}"
        else:
            text = f"missed (best {best:.2f})" if best >= 0.005 else "missed"
        name = f"{run_name(run, 24)}\n" if len(shown.runs) > 1 else ""
        panels.append(Panel(name + text, _nearest(_inside(boxes, crop), about, crop)))
    return panels, picture


def _crop(box: np.ndarray, size: tuple[int, int], aspect: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom around a box with as much again beside it, inside the image."""
    x, y, w, h = box
    width = max(2.0 * w, 2.0 * h / aspect, 96.0)
    width = (
        min(width, size[0], size[1] / aspect)
        if max(w, h / aspect) <= min(size[0], size[1] / aspect)
        else max(w, h / aspect)
    )
    sides = np.minimum([width, width * aspect], size)
    low = np.clip(np.array([x + w / 2, y + h / 2]) - sides / 2, 0, np.array(size) - sides)
    left, top = np.floor(low).astype(int).tolist()
    right, bottom = np.ceil(low + sides).astype(int).tolist()
    return left, top, min(max(right, left + 1), size[0]), min(max(bottom, top + 1), size[1])


def _inside(boxes: Sequence[LabeledBox], crop: tuple[int, int, int, int]) -> list[LabeledBox]:
    """The boxes cut to the crop, in its pixels; without those that are mostly outside."""
    kept = []
    for box in boxes:
        x, y, w, h = box.xywh
        low = np.maximum([x, y], crop[:2])
        high = np.minimum([x + w, y + h], crop[2:])
        sides = high - low
        if (sides > 0).all() and sides.prod() >= 0.3 * w * h:
            place = (*(low - crop[:2]).tolist(), *sides.tolist())
            kept.append(LabeledBox(place, box.class_index, box.score, box.verdict))
    return kept


def _nearest(
    boxes: list[LabeledBox], about: np.ndarray, crop: tuple[int, int, int, int]
) -> list[LabeledBox]:
    """Those that lie most on the object that a crop is about."""
    xywh = np.array([box.xywh for box in boxes]).reshape(-1, 4)
    overlap = pairwise_iou(xywh, about[None] - [*crop[:2], 0, 0])[:, 0]
    order = np.argsort(-overlap, kind="stable")[:MAX_RARE_BOXES]
    return [boxes[i] for i in order if overlap[i] > 0.05 or boxes[i].score is None]


def _ending(name: str, length: int) -> str:
    """Of a file's name, the end, which tells it from others."""
    return name if len(name) <= length else "\N{HORIZONTAL ELLIPSIS}" + name[1 - length :]


def _objects(truth: GroundTruth, image: int) -> list[LabeledBox]:
    """The largest first."""
    place = truth.of(image)
    boxes = [
        LabeledBox(tuple(box), int(k))
        for box, k in zip(truth.box[place].tolist(), truth.class_index[place], strict=True)
    ]
    return sorted(boxes, key=lambda box: -box.xywh[2] * box.xywh[3])


def _detections(
    found: Found, truth: GroundTruth, image: int, score_threshold: float
) -> list[LabeledBox]:
    """The best first, with a verdict each."""
    place = found.best(image, score_threshold)
    classes = found.class_index[place]
    verdicts, _, _ = judge_image(truth, found, image, place)
    return [
        LabeledBox(tuple(box), int(k), float(score), int(verdict))
        for box, k, score, verdict in zip(
            found.box[place].tolist(), classes, found.score[place], verdicts, strict=True
        )
    ]


def _image_figure(truth: GroundTruth, height: float) -> Figure:
    """A figure whose parts are placed in inches, with the legend of lines at the top."""
    figure = new_figure(height)
    figure.set_layout_engine("none")
    figure.legend(
        handles=line_style_handles(judges_all=truth.judges_all), ncols=4, fontsize=9,
        handlelength=3, borderaxespad=0,
        loc="upper left", bbox_to_anchor=(MARGIN / WIDTH, 1 - 0.1 / height), borderpad=0,
    )  # fmt: skip
    return figure


def _text(figure: Figure, left: float, top: float, text: str, **style) -> None:
    """Text whose place is in inches from the upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, va="center", **style)
