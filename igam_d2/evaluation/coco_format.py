"""Annotation files of COCO's and LVIS's format, read and handed to hotcoco, in little memory."""

import contextlib
import io
import os
import warnings
from collections import Counter
from typing import Any

import hotcoco
import numpy as np
from detectron2.data import MetadataCatalog

from ..detections import Detections, Masks
from ..errors import InputError

__all__ = [
    "annotation_file",
    "load_detections",
    "mask_areas",
    "ordered_categories",
    "per_class_ap",
    "percent",
    "run",
    "tide_errors",
]


def annotation_file(dataset_name: str) -> str:
    """The annotation file of a registered data set.

    Raises:
        InputError: if it does not exist.
    """
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    if json_file is None or not os.path.isfile(json_file):
        raise InputError(
            f"The annotations of {dataset_name} are missing: put them at {json_file}, or set "
            "$DETECTRON2_DATASETS to the folder that holds the datasets (default ./datasets)."
        )
    return json_file


def ordered_categories(
    metadata, content: dict[str, Any], *, crowds: bool = False
) -> tuple[list[dict], np.ndarray]:
    """The categories in the order of the contiguous classes, and the instances (K,) of each, with
    `crowds` also those that are marked as a crowd.

    Without a map in the metadata, classes are numbered as the ids are sorted, as Detectron2 does.
    """
    categories = {category["id"]: category for category in content["categories"]}
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    ids = sorted(mapping, key=mapping.get) if mapping else sorted(categories)
    names = metadata.get("thing_classes") or [categories[i]["name"] for i in ids]
    differing = sorted(set(ids) ^ set(categories))
    if differing or len(names) != len(ids):
        where = "registered alone" if differing and differing[0] in ids else "in it alone"
        reason = (
            f"category {differing[0]} is {where}"
            if differing
            else f"{len(names)} classes are registered, and it has {len(ids)} categories"
        )
        raise InputError(
            f"The annotations of {metadata.name!r} are of other classes than it is registered "
            f"with ({reason}): register it with those of its file."
        )
    counts = Counter(
        a["category_id"] for a in content["annotations"] if crowds or not a.get("iscrowd", 0)
    )
    ordered = [{**categories[i], "name": name} for i, name in zip(ids, names, strict=True)]
    return ordered, np.array([counts[i] for i in ids], dtype=np.int64)


def load_detections(ground_truth: hotcoco.COCO, detections: Detections, task: str) -> hotcoco.COCO:
    """Hand over detections; for masks, small, medium and large are by the mask's own area."""
    rows = np.empty((len(detections), 7))
    rows[:, 0] = detections.image_id
    rows[:, 1:5] = detections.box
    rows[:, 5] = detections.score
    rows[:, 6] = detections.category_id
    if task == "bbox":
        return ground_truth.load_res(rows)
    rles = detections.masks.unpack()
    loaded = ground_truth.load_res(rows, segmentation=rles)
    if rles:
        ids = np.arange(1, len(rles) + 1)
        loaded.update_anns(ids=ids, area=hotcoco.mask.area(rles).astype(np.float64))
    return loaded


def mask_areas(masks: Masks) -> np.ndarray:
    """(N,) areas in square pixels."""
    rles = masks.unpack()
    return hotcoco.mask.area(rles) if rles else np.zeros(0)


def run(evaluation: hotcoco.COCOeval) -> dict[str, float]:
    """Runs it; its metrics in %, NaN where it has -1 for no ground truth."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # Its own table goes to stdout, ours to the log. Another limit of detections is meant.
        warnings.filterwarnings("ignore", "hotcoco: max_dets differ", UserWarning)
        evaluation.run()
    return {name: percent(value) for name, value in evaluation.get_results().items()}


def per_class_ap(evaluation: hotcoco.COCOeval, category_ids: list[int]) -> np.ndarray:
    """AP (K,) in % of the categories in that order, NaN without ground truth."""
    # (T, R, K, areas, limits): IoU thresholds, recalls, categories; -1 without ground truth
    means = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))  # (K,)
    of_category = dict(zip(evaluation.params.cat_ids, means.tolist(), strict=True))
    return np.array([percent(of_category[i]) for i in category_ids])


def tide_errors(evaluation: hotcoco.COCOeval) -> dict[str, float]:
    """The AP50, in points of %, that each kind of error costs (Bolya et al. 2020): wrong class,
    place, both, duplicate, background, and objects that are missed."""
    delta = evaluation.tide_errors()["delta_ap"]
    return {kind: 100 * delta[kind] for kind in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")}


def percent(value: float) -> float:
    return float("nan") if value < 0 else 100 * float(value)
