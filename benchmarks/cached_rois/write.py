"""Makes the folders of cache.py."""

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import PathManager
from torch import nn

from cached_rois.cache import (
    VERSION,
    annotation_digests,
    check_room,
    check_supported,
    digest_of,
    settings,
)
from igam_d2.data import (
    CheckedMapper,
    build_test_loader,
    check_test_datasets,
    load_training_set,
    register_datasets,
)
from igam_d2.engine import Checkpointer
from igam_d2.engine.random_state import random_state, set_random_state
from igam_d2.errors import InputError
from igam_d2.files import write_json

__all__ = ["write_cache"]

IMAGES_AT_ONCE = 8  # of one size: padding changes the features at a border
SECONDS_BETWEEN_LINES = 10


def write_cache(cfg: CfgNode, folder: str | Path, *, passes: int, seed: int) -> None:
    """Runs the detector of MODEL.WEIGHTS over the training set and DATASETS.TEST, and keeps the
    features of its RoIs. The folder appears when it is complete.

    Training images come in order, augmented as the config says; their RoIs are sampled as in
    training, but the detector is the one of a test, with fixed statistics of its batch norms.

    Args:
        passes: over the training set, with other augmentations and RoIs each.
        seed: of both.

    Raises:
        InputError: there is such a folder, there are no weights or others, a detector that is not
            supported, bad data, no room on the disk, features that float16 cannot hold.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{str(folder)!r} is there already: remove it to make the cache again.")
    if passes < 1:
        raise InputError(f"The cache is of {passes} passes: it must be at least 1.")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    cfg.DATALOADER.MAX_BAD_IMAGES = 0
    register_datasets(cfg)
    check_supported(cfg)
    check_test_datasets(cfg)
    records = load_training_set(cfg)
    if len({record["image_id"] for record in records}) < len(records):
        raise InputError(f"Two images of DATASETS.TRAIN {cfg.DATASETS.TRAIN} have the same id.")
    test_loaders = {name: build_test_loader(cfg, name) for name in cfg.DATASETS.TEST}

    device = torch.device(cfg.MODEL.DEVICE)
    state = random_state(device)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        model = build_model(cfg).eval()
        Checkpointer(model, exact=True).load(cfg.MODEL.WEIGHTS)
        shapes = model.backbone.output_shape()
        shapes = {name: shapes[name] for name in model.roi_heads.box_in_features}
        num_tests = [len(loader) for loader in test_loaders.values()]
        num_rois = passes * len(records) * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        num_rois += sum(num_tests) * cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        channels = next(iter(shapes.values())).channels
        check_room(temporary, 2 * num_rois * channels * cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION**2)
        seed_all_rng(seed)
        progress = Progress(passes * len(records) + sum(num_tests))
        mapper = CheckedMapper(cfg, is_train=True)
        for number in range(passes):
            images = progress.of(f"pass {number + 1} of {passes}", map(mapper, records))
            write_split(model, images, temporary, f"train_{number}", training=True)
        for number, (name, loader) in enumerate(test_loaders.items()):
            images = progress.of(name, (record for (record,) in loader))
            write_split(model, images, temporary, f"test_{number}", training=False)
        content = {
            "version": VERSION,
            "weights": str(cfg.MODEL.WEIGHTS),
            "sha256": digest_of(PathManager.get_local_path(cfg.MODEL.WEIGHTS)),
            "passes": passes,
            "seed": seed,
            "num_images": len(records),
            "test": list(test_loaders),
            "shapes": {name: (shape.channels, shape.stride) for name, shape in shapes.items()},
            "annotations": annotation_digests(cfg),
            "settings": settings(cfg),
        }
        write_json(temporary / "cache.json", content)
        temporary.rename(folder)
    finally:
        set_random_state(state, device)
        shutil.rmtree(temporary, ignore_errors=True)


@torch.no_grad()
def write_split(
    model: nn.Module, images: Iterable[dict], folder: Path, name: str, *, training: bool
) -> None:
    """`<name>.npy` and `<name>.npz` of mapped records; one batch at a time is in memory."""
    topk = model.proposal_generator.pre_nms_topk, model.proposal_generator.post_nms_topk
    of_test = [dict(numbers) for numbers in topk]
    for numbers in topk:  # the RPN stays in evaluation, without losses
        numbers[False] = numbers[training]
    parts: dict[str, list[np.ndarray]] = {}
    image_ids, num_rois, num_truths = [], [], []

    def keep(key: str, tensor: torch.Tensor, dtype: type) -> None:
        parts.setdefault(key, []).append(tensor.cpu().numpy().astype(dtype))

    with Rows(folder / f"{name}.npy") as rows, EventStorage():
        for batch in batches(images):
            pixels = model.preprocess_image(batch)
            maps = model.backbone(pixels.tensor)
            proposals, _ = model.proposal_generator(pixels, maps, None)
            if training:
                truths = [record["instances"].to(model.device) for record in batch]
                proposals = model.roi_heads.label_and_sample_proposals(proposals, truths)
                for truth in truths:
                    num_truths.append(len(truth))
                    keep("truth_boxes", truth.gt_boxes.tensor, np.float32)
                    keep("truth_classes", truth.gt_classes, np.int32)
            boxes = [image.proposal_boxes for image in proposals]
            maps = [maps[key] for key in model.roi_heads.box_in_features]
            rows.append(model.roi_heads.box_pooler(maps, boxes).flatten(1))
            for record, image in zip(batch, proposals, strict=True):
                image_ids.append(record["image_id"])
                num_rois.append(len(image))
                keep("image_size", torch.tensor([image.image_size]), np.int32)
                keep("proposal_boxes", image.proposal_boxes.tensor, np.float32)
                if training:
                    keep("gt_boxes", gt_boxes_of(image), np.float32)
                    keep("gt_classes", image.gt_classes, np.int32)
    for numbers, before in zip(topk, of_test, strict=True):
        numbers.update(before)
    arrays = {key: np.concatenate(values) for key, values in parts.items()}
    arrays |= {"image_id": np.array(image_ids), "start": np.cumsum([0, *num_rois])}
    if training:
        arrays["truth_start"] = np.cumsum([0, *num_truths])
    np.savez(folder / f"{name}.npz", **arrays)


def gt_boxes_of(rois: Instances) -> torch.Tensor:
    """Of an image without objects, where no box is regressed, those of the RoIs."""
    return (rois.gt_boxes if rois.has("gt_boxes") else rois.proposal_boxes).tensor


def batches(images: Iterable[dict]) -> Iterator[list[dict]]:
    """Records that follow each other, as long as their images have the same size."""
    batch: list[dict] = []
    for image in images:
        if batch and batch[0]["image"].shape != image["image"].shape:
            yield batch
            batch = []
        batch.append(image)
        if len(batch) == IMAGES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


class Rows:
    """A .npy file of float16 rows, whose number is known when it is closed."""

    def __init__(self, path: Path):
        self._path, self._shape = path, (0, 0)

    def __enter__(self) -> "Rows":
        self._file = self._path.open("wb")
        self._write_header()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None):
        if kind is None:
            self._file.seek(0)
            self._write_header()  # of the same length: numpy leaves room for the number to grow
        self._file.close()

    def append(self, rows: torch.Tensor) -> None:
        """
        Raises:
            InputError: a number beyond float16.
        """
        rows = rows.half()
        if not rows.isfinite().all():
            raise InputError("The detector has features above 65504, which float16 cannot hold.")
        rows = rows.cpu().contiguous()
        self._file.write(rows.numpy())
        self._shape = (self._shape[0] + len(rows), rows.shape[1])

    def _write_header(self) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class Progress:
    """Says now and then how many images are done, and how long the rest may take."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._start = self._said = time.monotonic()

    def of(self, what: str, images: Iterable[dict]) -> Iterator[dict]:
        for image in images:
            yield image
            self._done += 1
            now = time.monotonic()
            if now - self._said >= SECONDS_BETWEEN_LINES or self._done == self._total:
                self._said = now
                left = (now - self._start) * (self._total / self._done - 1)
                print(
                    f"{what}: {self._done:,} of {self._total:,} images; "
                    f"about {left / 60:.1f} minutes left",
                    flush=True,
                )
