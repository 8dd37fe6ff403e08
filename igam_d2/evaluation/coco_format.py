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

from ..detections import Detections
from ..errors import InputError
from .structures import GroundTruth

__all__ = [
    "annotation_file",
    "ground_truth_of",
    "load_detections",
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


def ground_truth_of(
    dataset_name: str, json_file: str, content: dict[str, Any], *, crowds: bool = False
) -> GroundTruth:
    """What all formats take from the content of an annotation file, which is its `data`.

    Without a map in the metadata, classes are numbered as the ids are sorted, as Detectron2 does.

    Args:
        crowds: count also instances that are marked as a crowd.

    Raises:
        InputError: the file has other classes than the data set is registered with.
    """
    metadata = MetadataCatalog.get(dataset_name)
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
            f"The annotations of {dataset_name!r} are of other classes than it is registered "
            f"with ({reason}): register it with those of its file."
        )
    counts = Counter(
        a["category_id"] for a in content["annotations"] if crowds or not a.get("iscrowd", 0)
    )
    return GroundTruth(
        image_ids=np.array([image["id"] for image in content["images"]], dtype=np.int64),
        categories=[{**categories[i], "name": name} for i, name in zip(ids, names, strict=True)],
        val_instances=np.array([counts[i] for i in ids], dtype=np.int64),
        json_file=json_file,
        image_root=str(metadata.get("image_root", "")),
        data=content,
    )


def load_detections(
    ground_truth: hotcoco.COCO, detections: Detections, task: str, *, drop_empty: bool = False
) -> hotcoco.COCO:
    """Hand over detections, with `drop_empty` without boxes or masks of no area; small, medium and
    large are by the area of what is evaluated."""
    rles = None
    if task == "segm" and len(detections):
        rles = detections.masks.unpack()
        area = hotcoco.mask.area(rles).astype(np.float64)
    else:
        area = detections.box[:, 2].astype(np.float64) * detections.box[:, 3]
    kept = np.flatnonzero(area > 0) if drop_empty else np.arange(len(area))
    rows = np.empty((len(kept), 7))
    rows[:, 0] = detections.image_id[kept]
    rows[:, 1:5] = detections.box[kept]
    rows[:, 5] = detections.score[kept]
    rows[:, 6] = detections.category_id[kept]
    if rles is None:
        return ground_truth.load_res(rows)
    loaded = ground_truth.load_res(rows, segmentation=[rles[i] for i in kept])
    if len(kept):
        loaded.update_anns(ids=np.arange(1, len(kept) + 1), area=area[kept])
    return loaded


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
