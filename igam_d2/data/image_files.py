"""Whether the images that annotations name are there: each folder is listed once."""

import os
from collections import defaultdict
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import InputError
from .own_data import OwnDataset

__all__ = ["check_image_files"]


def check_image_files(paths: Sequence[str], names: Sequence[str], cfg: CfgNode) -> None:
    """Looks for every image of data sets by its name; those on other machines are passed over.

    DATALOADER.MAX_BAD_IMAGES of them may be missing, if there are others.

    Raises:
        InputError: a folder that is missing or cannot be listed, or too many images that are.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        if "://" not in path:
            folders[os.path.dirname(path) or os.curdir].add(os.path.basename(path))
    missing, unlisted = set(), {}
    for folder, needed in folders.items():
        try:
            with os.scandir(folder) as entries:
                needed = needed - {entry.name for entry in entries}
        except OSError as error:
            unlisted[folder] = error
        missing |= {(folder, file) for file in needed}
    places = [(os.path.dirname(path) or os.curdir, os.path.basename(path)) for path in paths]
    absent = [path for path, place in zip(paths, places, strict=True) if place in missing]
    allowed = cfg.DATALOADER.get("MAX_BAD_IMAGES", 0)
    if not absent or (len(absent) <= allowed and len(absent) < len(paths)):
        return
    name = ", ".join(names)
    for folder, error in unlisted.items():
        state = {FileNotFoundError: "is missing", NotADirectoryError: "is no folder"}
        reason = state.get(type(error), f"cannot be listed ({error.strerror})")
        raise InputError(
            f"Image folder {folder!r} of {name} {reason}: {_how_to_get(folder, names)}."
        )
    limit = f", of which DATALOADER.MAX_BAD_IMAGES allows {allowed}" if allowed else ""
    raise InputError(
        f"{len(absent)} of the {len(paths)} images of {name} are missing{limit}, the first being "
        f"{absent[0]!r}: put them there, or take them out of the annotations; a few of many are "
        "passed over with DATALOADER.MAX_BAD_IMAGES."
    )


def _how_to_get(folder: str, names: Sequence[str]) -> str:
    for name in names:
        dataset = DatasetCatalog.data[name]
        if isinstance(dataset, OwnDataset) and folder.startswith(dataset.image_root.rstrip("/")):
            return (
                f"correct the image_root of {name!r} in DATASETS.REGISTER, which is "
                f"{MetadataCatalog.get(name).image_root!r} (names of images start from there)"
            )
    return "put the images there, or set DETECTRON2_DATASETS to the folder that holds the data sets"
