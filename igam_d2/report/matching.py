"""Which detection belongs to which object: right, wrong class, nothing there, or not judged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ground_truth import Found, GroundTruth, shared_area

CORRECT, WRONG_CLASS, NO_OBJECT, NOT_JUDGED = 0, 1, 2, 3
MISSED = NOTHING = -1
MATCH_IOU = 0.5


@dataclass(frozen=True)
class Outcome:
    """What a run made of the M objects.

    Attributes:
        found: (M,) bool, by a detection of the right class.
        predicted: (M,) class of the best-scored detection on it, MISSED if there is none.
        false: (I,) detections of each image that are wrong.
    """

    found: np.ndarray
    predicted: np.ndarray
    false: np.ndarray


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) in x, y, width, height: (N, M)."""
    intersection = shared_area(boxes, others)
    union = boxes[:, 2:].prod(axis=1)[:, None] + others[:, 2:].prod(axis=1)[None] - intersection
    return intersection / np.maximum(union, 1e-9)


def judge(iou: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts on detections; an object is found once, by the best-scored detection of its class.

    Args:
        iou, same: (N, M) of detections, from the best score down, and objects: their overlap, and
            whether they are of one class.

    Returns:
        (N,) CORRECT, WRONG_CLASS or NO_OBJECT, and (N,) the object that each one finds, or NOTHING.
    """
    verdicts, finds = np.full(iou.shape[0], NO_OBJECT), np.full(iou.shape[0], NOTHING)
    free = np.ones(iou.shape[1], dtype=bool)
    for i in np.flatnonzero((iou >= MATCH_IOU).any(axis=1)):
        candidates = np.where(same[i] & free, iou[i], 0)
        if candidates.max() >= MATCH_IOU:
            verdicts[i], finds[i] = CORRECT, candidates.argmax()
            free[finds[i]] = False
        elif not same[i][iou[i].argmax()]:
            verdicts[i] = WRONG_CLASS
    return verdicts, finds


def judge_image(
    truth: GroundTruth, found: Found, image: int, place: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts (N,) on detections of an image, the object of it (N,) that each one finds, and their
    IoU (N, M) with its objects. Where nobody can say that one is wrong it is NOT_JUDGED, as AP by
    the rules of the data set has it.
    """
    objects = truth.of(image)
    classes, boxes = found.class_index[place], found.box[place]
    iou = pairwise_iou(boxes, truth.box[objects])
    verdicts, finds = judge(iou, classes[:, None] == truth.class_index[objects])
    verdicts[(verdicts != CORRECT) & truth.unknown(image, classes, boxes)] = NOT_JUDGED
    return verdicts, finds, iou


def compare(truth: GroundTruth, found: Found, score_threshold: float) -> Outcome:
    """Judge every image with the detections of at least that score."""
    hit = np.zeros(len(truth.class_index), dtype=bool)
    predicted = np.full(len(truth.class_index), MISSED)
    false = np.zeros(len(truth.image_id), dtype=np.int64)
    for image in range(len(truth.image_id)):
        objects, shown = truth.of(image), found.best(image, score_threshold)
        if shown.start == shown.stop:
            continue
        verdicts, finds, iou = judge_image(truth, found, image, shown)
        false[image] = ((verdicts == WRONG_CLASS) | (verdicts == NO_OBJECT)).sum()
        if objects.start == objects.stop:
            continue
        correct = np.flatnonzero(verdicts == CORRECT)
        hit[objects.start + finds[correct]] = True
        near = iou >= MATCH_IOU
        # One that finds an object is not what others, which overlap that, are taken for.
        near[correct] = False
        near[correct, finds[correct]] = True
        # Detections are in order of score: the first near one is the best.
        classes = found.class_index[shown]
        predicted[objects] = np.where(near.any(axis=0), classes[near.argmax(axis=0)], MISSED)
    return Outcome(hit, predicted, false)


def confusion(truth: GroundTruth, outcome: Outcome, num_classes: int) -> np.ndarray:
    """(K, K + 1) objects by their class and the class they are taken for, the last "missed"."""
    column = np.where(outcome.predicted == MISSED, num_classes, outcome.predicted)
    flat = np.bincount(
        truth.class_index * (num_classes + 1) + column, minlength=num_classes * (num_classes + 1)
    )
    return flat.reshape(num_classes, num_classes + 1)


def most_confused(matrices: Sequence[np.ndarray], count: int) -> list[int]:
    """The classes of the largest confusions of all runs together, (K, K + 1) each, ascending."""
    total = sum(matrix[:, :-1].astype(np.int64) for matrix in matrices)
    np.fill_diagonal(total, 0)
    chosen: list[int] = []
    for flat in np.argsort(-total, axis=None, kind="stable"):
        pair = divmod(int(flat), len(total))
        if total[pair] == 0 or len(chosen) >= count:
            break
        chosen += [k for k in pair if k not in chosen]
    return sorted(chosen[:count])
