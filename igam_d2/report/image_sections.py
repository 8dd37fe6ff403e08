"""The parts of the report that need annotations, detections and images."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from igam_d2.errors import InputError

from . import galleries, run_figures
from .drawing import Drawing
from .galleries import AT_LEAST, MAX_DRAWN_RUNS, Shown
from .ground_truth import Found, GroundTruth, load_found, load_ground_truth
from .image_choice import choose_images, example_objects, gallery_classes
from .matching import MATCH_IOU, Outcome, compare, confusion, most_confused
from .page import Html
from .run_folder import Run
from .style import shorten

NUM_IMAGES = 4
MAX_NAMED = 20


@dataclass(frozen=True)
class Objects:
    """What images are needed for: each list has only the runs whose detections could be read."""

    truth: GroundTruth
    runs: list[Run]
    found: list[Found]
    outcomes: list[Outcome]
    gallery: list[int]
    examples: dict[int, int]
    task: str


def load_objects(
    runs: list[Run],
    task: str,
    score_threshold: float,
    max_rare: int | None,
    notes: list[str],
    log: Callable[[str], None],
) -> Objects | None:
    """Annotations, detections and which is which; what is missing goes into `notes`."""
    log(f"Reading the annotations of {runs[0].dataset} ...")
    truth = None
    for run in runs:  # all were evaluated on the same ones, which may lie here for one of them
        try:
            truth = load_ground_truth(run)
            break
        except InputError as error:
            notes.append(str(error))
    if truth is None:
        return None
    notes.clear()
    gallery, _ = gallery_classes(runs[0], task)
    annotated = np.bincount(truth.class_index, minlength=len(runs[0].classes)) > 0
    shown = [k for k in gallery if annotated[k]][:max_rare]
    examples = example_objects(truth, shown)
    whole = np.unique(truth.image[list(examples.values())]) if examples else np.zeros(0, np.int64)
    objects = Objects(truth, [], [], [], gallery, examples, task)
    for run in runs:
        log(f"Comparing the detections of {run.name} with {len(truth.class_index):,} objects ...")
        try:
            found = load_found(run, truth, score_threshold, whole)
        except InputError as error:
            notes.append(str(error))
            continue
        if found.unknown:
            notes.append(
                f"{run.name}: {found.unknown:,} detections are of an image or a class that the "
                "annotations do not have, and are left out."
            )
        objects.runs.append(run)
        objects.found.append(found)
        objects.outcomes.append(compare(truth, found, score_threshold))
    return objects


def detection_parts(
    objects: Objects, score_threshold: float, log: Callable[[str], None]
) -> Iterator[Drawing | Html | str]:
    shown = _shown(objects, score_threshold)
    images, missing = choose_images(
        objects.runs[0], objects.truth, objects.outcomes[:MAX_DRAWN_RUNS], NUM_IMAGES
    )
    if not images:
        yield _no_images(objects) if missing else "No image has an annotated object."
        return
    why = "the runs differ most" if len(shown.runs) > 1 else "most is wrong"
    weighed = ", rare classes counting more" if objects.runs[0].groups else ""
    text = f"Images on which {why}{weighed}. A label is a class and its score; "
    text += "colours tell the classes of one image apart."
    if len(objects.runs) > MAX_DRAWN_RUNS:
        text += f" Of {len(objects.runs)} runs are drawn {shown.which}."
    yield Html(f'<p class="caption">{escape(text)}</p>')
    for number, image in enumerate(images, 1):
        yield galleries.detections_on(shown, image, number)


def gallery_heading(runs: Sequence[Run], task: str) -> str:
    _, group = gallery_classes(runs[0], task)
    return f"{group[0].upper()}{group[1:]}"


def gallery_parts(
    objects: Objects, score_threshold: float, log: Callable[[str], None]
) -> Iterator[Drawing | Html | str]:
    shown, first = _shown(objects, score_threshold), objects.runs[0]
    annotated = np.bincount(objects.truth.class_index, minlength=len(first.classes)) > 0
    without = [first.class_names[k] for k in objects.gallery if not annotated[k]]
    if without:
        named = ", ".join(shorten(name) for name in without[:MAX_NAMED])
        more = f" and {len(without) - MAX_NAMED:,} more" if len(without) > MAX_NAMED else ""
        yield f"Without a validation object ({len(without):,}): {named}{more}."
    if not objects.examples:
        yield _no_images(objects) if len(without) < len(objects.gallery) else "There is none."
        return
    text = f"One object of each class ({len(objects.examples):,} of {len(objects.gallery):,}), "
    text += "chosen without regard to detections: large enough and on an image with few. "
    text += f"Found is a detection of its class whose box has an IoU {AT_LEAST} {MATCH_IOU} and a "
    text += f"score {AT_LEAST} {score_threshold:g}; in brackets the best score below that."
    if len(objects.runs) > MAX_DRAWN_RUNS:
        text += f" Of {len(objects.runs)} runs are drawn {shown.which}."
    yield Html(f'<p class="caption">{escape(text)}</p>')
    start = time.monotonic()

    def progress(done: int, total: int) -> None:
        if done < total:
            left = (time.monotonic() - start) / done * (total - done)
            log(f"Rare classes: page {done} of {total}, about {max(left, 1):.0f} s left")

    yield from galleries.rare_pages(
        shown, objects.examples, gallery_heading(objects.runs, objects.task), progress
    )


def confusion_parts(
    objects: Objects, score_threshold: float, log: Callable[[str], None]
) -> Iterator[Drawing | Html | str]:
    num_classes = len(objects.runs[0].classes)
    matrices = [confusion(objects.truth, o, num_classes) for o in objects.outcomes]
    text = "What the objects of a class are taken for, in % of them (rows add up to 100): the "
    text += f"class of the best-scored detection whose box has an IoU {AT_LEAST} {MATCH_IOU} and a "
    text += f"score {AT_LEAST} {score_threshold:g}, and which is right nowhere else. "
    if objects.truth.judged is not None:
        text += "Classes that nobody looked for in an image count here too; in AP they do not. "
    if num_classes <= run_figures.MAX_MATRIX_CLASSES:
        classes = list(range(num_classes))
    else:
        classes = most_confused(matrices, run_figures.MAX_MATRIX_CLASSES)
        text += "Shown are the classes that are confused most often, over all runs."
    if not classes:
        yield f"No object is taken for another class at a score of {score_threshold:g}."
        return
    yield Html(f'<p class="caption">{escape(text)}</p>')
    for run, matrix in zip(objects.runs, matrices, strict=True):
        name = file_name("confusion", run, objects.runs)
        yield run_figures.confusion_figure(run, matrix, classes, name)


def _shown(objects: Objects, score_threshold: float) -> Shown:
    n = MAX_DRAWN_RUNS
    return Shown(objects.runs[:n], objects.found[:n], objects.truth, score_threshold)


def _no_images(objects: Objects) -> str:
    root = objects.runs[0].results.get("image_root")
    return f"The images in {root} cannot be read from here, so that none is drawn."


def file_name(kind: str, run: Run, runs: Sequence[Run]) -> str:
    """Of a figure for each run: letters that any file system and any id takes."""
    taken: list[str] = []
    for other in runs:
        name = base = re.sub(r"[^A-Za-z0-9._-]+", "_", other.name)
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.append(name)
        if other is run:
            break
    return f"{kind}_{taken[-1]}"
