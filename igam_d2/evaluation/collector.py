"""Gathers what a model detects, in arrays, over all processes."""

import contextlib
import ctypes
import logging

import numpy as np
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools import mask as mask_utils

from ..detections import Detections, Masks

__all__ = ["DetectionCollector"]

# Detections that travel at once from each process, so that no more of them are there twice
CHUNK = 1 << 16


class DetectionCollector:
    """The detections of all images, whose `category_id` is the contiguous class until it is mapped.

    What a model returns is kept as arrays of an image each, and these soon as larger ones, because
    memory in small pieces is not given back; :meth:`gather` makes one of them. A detection with a
    NaN or Inf in its box or score is left out, and counted.
    """

    def __init__(self):
        self._blocks: list[Detections] = []
        self._parts: list[Detections] = []
        self._num_in_parts = 0
        self._has_masks = False
        self.num_images = self.num_nonfinite = 0

    def add(self, image_id: int, instances: Instances) -> None:
        """Takes over the detections of an image, on any device: `pred_boxes`, `scores`,
        `pred_classes` and, where a model makes them, `pred_masks`."""
        self._has_masks |= instances.has("pred_masks")
        if not len(instances):
            self.num_images += 1
            return
        instances = instances.to("cpu")
        finite = instances.pred_boxes.tensor.isfinite().all(dim=1) & instances.scores.isfinite()
        self.num_nonfinite += len(finite) - int(finite.sum())
        instances = instances[finite]
        box = instances.pred_boxes.tensor.float().numpy().copy()
        box[:, 2:] -= box[:, :2]
        masks = None
        if instances.has("pred_masks"):
            pixels = instances.pred_masks.numpy().astype(np.uint8, copy=False)  # (N, H, W)
            masks = Masks.pack(mask_utils.encode(np.asfortranarray(pixels.transpose(1, 2, 0))))
        self.append(
            Detections(
                np.full(len(box), image_id, dtype=np.int64),
                instances.pred_classes.numpy().astype(np.int32),
                box,
                instances.scores.float().numpy(),
                masks,
            )
        )

    def append(self, part: Detections) -> None:
        """Takes over the detections of an image as they are."""
        self.num_images += 1
        self._has_masks |= part.masks is not None
        self._parts.append(part)
        self._num_in_parts += len(part)
        if self._num_in_parts >= CHUNK:
            self._blocks.append(_join(self._parts))
            self._parts, self._num_in_parts = [], 0

    def gather(self, *, distributed: bool = True) -> tuple[Detections, int] | None:
        """The detections of all processes in their order, and the number of images.

        What was collected is given away. To be called by all processes; the main one alone gets
        something. Beside the result a block of each process is in memory, not a second copy.
        """
        blocks = [*self._blocks, _join(self._parts)]
        sizes = (
            sum(map(len, blocks)),
            sum(len(block.masks.codes) for block in blocks if block.masks is not None),
            self._has_masks,
            self.num_images,
            self.num_nonfinite,
            len(blocks),
        )
        self.__init__()
        all_sizes = comm.all_gather(sizes) if distributed else [sizes]
        lengths, code_lengths, has_masks, num_images, num_nonfinite, num_blocks = zip(
            *all_sizes, strict=True
        )
        # Where the next detection of each process goes
        starts, code_starts = (np.cumsum([0, *n[:-1]]) for n in (lengths, code_lengths))
        result = None
        if not distributed or comm.is_main_process():
            result = Detections.blank(sum(lengths), sum(code_lengths) if any(has_masks) else None)
            if sum(num_nonfinite):
                logging.getLogger(__name__).warning(
                    "%d detections held a NaN or Inf and were left out.", sum(num_nonfinite)
                )
        blocks.reverse()  # they are taken from the end
        for _ in range(max(num_blocks)):
            block = blocks.pop() if blocks else Detections.blank(0)
            for rank, part in enumerate(comm.gather(block) if distributed else [block]):
                result.put(part, starts[rank], code_starts[rank])
                starts[rank] += len(part)
                code_starts[rank] += len(part.masks.codes) if part.masks is not None else 0
            del block
            _return_freed_memory()
        return None if result is None else (result, sum(num_images))


def _return_freed_memory() -> None:
    """To the system, also from the middle of the heap; with another C library it stays there."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _join(parts: list[Detections]) -> Detections:
    code_lengths = [0 if part.masks is None else len(part.masks.codes) for part in parts]
    has_masks = any(part.masks is not None for part in parts)
    joined = Detections.blank(sum(map(len, parts)), sum(code_lengths) if has_masks else None)
    start = code_start = 0
    for part, code_length in zip(parts, code_lengths, strict=True):
        joined.put(part, start, code_start)
        start, code_start = start + len(part), code_start + code_length
    return joined
