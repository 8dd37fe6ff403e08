"""RoI features of a trained detector in a folder, to train second stages on.

A folder has `cache.json`, and for each pass over the training set and for each test set a
`<split>.npy` with the features of all RoIs, float16, and a `<split>.npz` with the rest.

Shape legend:
    N: images of a split    R: RoIs of all its images    G: ground-truth instances of all of them
    C: channels of a feature map    P: side of the pooled features
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from igam_d2.data import register_datasets
from igam_d2.errors import InputError

__all__ = ["RoICache", "Split", "annotation_digests", "digest_of", "settings"]

VERSION = 1
# What the proposals and features of a cache depend on
NODES = (
    *("MODEL.META_ARCHITECTURE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE"),
    *("MODEL.RESNETS", "MODEL.SWIN", "MODEL.FPN", "MODEL.ANCHOR_GENERATOR", "MODEL.RPN"),
    *("MODEL.PROPOSAL_GENERATOR", "MODEL.ROI_HEADS", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"),
    *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "INPUT"),
    "DATASETS.TRAIN",
)
FREE = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST")
NEEDED = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.ROI_HEADS.NAME": "IGAMROIHeads",
    "MODEL.LOAD_PROPOSALS": False,
    "VIS_PERIOD": 0,
}


class Split:
    """The RoIs of one pass over the training set, or of a test set.

    `split[image_id]` is what a detector is given of an image beside its record: "roi_features"
    (R_i, C * P * P), float16 and on the disk, "proposals", and in training "instances"; the same
    objects each time.
    """

    def __init__(self, folder: Path, name: str):
        # "c": torch warns of memory that it could write to but must not
        self._features = np.load(folder / f"{name}.npy", mmap_mode="c")
        with np.load(folder / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        self._folder = folder
        self._place = {image_id: i for i, image_id in enumerate(arrays.pop("image_id").tolist())}
        self._sizes = [tuple(size) for size in arrays.pop("image_size").tolist()]
        self._start = arrays.pop("start").tolist()
        self._truth_start = arrays.pop("truth_start", np.empty(0, int)).tolist()
        self._arrays = {
            key: torch.from_numpy(array.astype(np.int64 if key.endswith("classes") else np.float32))
            for key, array in arrays.items()
        }
        self._images: dict[int | str, dict] = {}

    def __len__(self):
        return len(self._place)

    def __contains__(self, image_id: int | str) -> bool:
        return image_id in self._place

    def __getitem__(self, image_id: int | str) -> dict:
        if image_id not in self._images:
            self._images[image_id] = self._read(self._place[image_id])
        return self._images[image_id]

    def _read(self, place: int) -> dict:
        rois, size = slice(*self._start[place : place + 2]), self._sizes[place]
        part = {name: array[rois] for name, array in self._arrays.items() if name[:5] != "truth"}
        proposals = Instances(size, proposal_boxes=Boxes(part["proposal_boxes"]))
        image = {"roi_features": torch.from_numpy(self._features[rois]), "proposals": proposals}
        if self._truth_start:
            proposals.gt_boxes, proposals.gt_classes = Boxes(part["gt_boxes"]), part["gt_classes"]
            truth = slice(*self._truth_start[place : place + 2])
            image["instances"] = Instances(
                size,
                gt_boxes=Boxes(self._arrays["truth_boxes"][truth]),
                gt_classes=self._arrays["truth_classes"][truth],
            )
        return image


class RoICache:
    """
    Attributes:
        content: of `cache.json`: the weights' path and SHA-256, passes, seed, settings.
        shapes: of the feature maps that the RoIs were taken from.
        train: a :class:`Split` for each pass.
        test: a :class:`Split` for each test set, by its name.
    """

    def __init__(self, folder: str | Path):
        """
        Raises:
            InputError: there is no cache, or one of another version.
        """
        self.folder = Path(folder)
        try:
            self.content = json.loads((self.folder / "cache.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"There is no cache of RoIs in {str(folder)!r}: make it with --write-cache."
            ) from error
        if self.content.get("version") != VERSION:
            raise InputError(
                f"The cache {str(folder)!r} is of another version: make another one with "
                "--write-cache."
            )
        self.shapes = {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, (channels, stride) in self.content["shapes"].items()
        }
        self.train = [Split(self.folder, f"train_{i}") for i in range(self.content["passes"])]
        self.test = {
            name: Split(self.folder, f"test_{i}") for i, name in enumerate(self.content["test"])
        }

    @classmethod
    def load(cls, folder: str | Path, cfg: CfgNode) -> "RoICache":
        """
        Raises:
            InputError: there is no cache, or one that :meth:`check` refuses.
        """
        cache = cls(folder)
        cache.check(cfg)
        return cache

    def check(self, cfg: CfgNode) -> None:
        """
        Raises:
            InputError: a config of another detector or other data; annotations that have changed.
        """
        register_datasets(cfg)
        check_supported(cfg)
        found = settings(cfg)
        for key in sorted(found.keys() | self.content["settings"].keys()):
            there, here = self.content["settings"].get(key), found.get(key)
            if there != here:
                raise InputError(
                    f"The cache {str(self.folder)!r} is of {key} {there!r}, but the config has "
                    f"{here!r}: make another one with --write-cache."
                )
        for name in cfg.DATASETS.TEST:
            if name not in self.test:
                raise InputError(
                    f"The cache {str(self.folder)!r} has no RoIs of {name!r} (DATASETS.TEST), only "
                    f"of {', '.join(map(repr, self.test)) or 'the training set'}."
                )
        for name, digest in annotation_digests(cfg).items():
            if self.content["annotations"].get(name) != digest:
                raise InputError(
                    f"The annotations of {name!r} are not those that the cache "
                    f"{str(self.folder)!r} was made with: make another one with --write-cache."
                )

    def check_images(self, records: list[dict]) -> None:
        """
        Raises:
            InputError: a record of the training set that is not in the cache.
        """
        for record in records:
            if record["image_id"] not in self.train[0]:
                raise InputError(
                    f"Image {record['image_id']} of the training set is not in the cache "
                    f"{str(self.folder)!r}: set DATALOADER.FILTER_EMPTY_ANNOTATIONS as it was."
                )


def settings(cfg: CfgNode) -> dict[str, object]:
    """What proposals and features depend on, as JSON has it, by the config's keys."""
    found: dict[str, object] = {}

    def add(key: str, value: object) -> None:
        if isinstance(value, CfgNode):
            for name, entry in value.items():
                add(f"{key}.{name}", entry)
        elif key not in FREE:
            found[key] = value

    for key in NODES:
        add(key, value_of(cfg, key))
    return json.loads(json.dumps(found))


def value_of(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def annotation_digests(cfg: CfgNode) -> dict[str, str]:
    """SHA-256 of the annotation file of each data set that has one."""
    files = {
        name: MetadataCatalog.get(name).get("json_file")
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    }
    return {name: digest_of(file) for name, file in files.items() if file}


def digest_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_supported(cfg: CfgNode) -> None:
    """
    Raises:
        InputError: a detector whose second stage cannot be trained on cached RoIs.
    """
    for key, needed in NEEDED.items():
        found = value_of(cfg, key)
        if found != needed:
            raise InputError(f"{key} is {found!r}: training on cached RoIs needs {needed!r}.")


def check_room(folder: Path, needed: int) -> None:
    """
    Raises:
        InputError: fewer bytes are free than may be needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"The cache may need {needed / 1e9:.1f} GB, but {str(folder)!r} has {free / 1e9:.1f} "
            "GB free: make room, or take fewer passes."
        )
