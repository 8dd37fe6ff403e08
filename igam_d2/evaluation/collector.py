"""Gathers what a model detects, in arrays, over all processes."""

import numpy as np
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools import mask as mask_utils

from ..detections import Detections, Masks

__all__ = ["DetectionCollector"]

# Detections that travel at once from each process, so that no more of them are there twice
CHUNK = 1 << 17


class DetectionCollector:
    """The detections of all images, whose `category_id` is the contiguous class until it is mapped.

    What a model returns is kept as arrays of an image each; :meth:`gather` makes one of them.
    """

    def __init__(self):
        self._parts: list[Detections] = []
        self.num_images = 0

    def add(self, image_id: int, instances: Instances) -> None:
        """Takes over the detections of an image, on any device: `pred_boxes`, `scores`,
        `pred_classes` and, where a model makes them, `pred_masks`."""
        if not len(instances):
            self.num_images += 1
            return
        instances = instances.to("cpu")
        box = instances.pred_boxes.tensor.float().numpy().copy()
        box[:, 2:] -= box[:, :2]
        masks = None
        if instances.has("pred_masks"):
            pixels = instances.pred_masks.numpy().astype(np.uint8)  # (N, H, W)
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
        self._parts.append(part)

    def gather(self, *, distributed: bool = True) -> tuple[Detections, int] | None:
        """The detections of all processes in their order, and the number of images.

        What was collected is given away. To be called by all processes; the main one alone gets
        something. Beside the result a chunk of each process is in memory, not a second copy.
        """
        parts, self._parts = self._parts, []
        sizes = (
            sum(len(part) for part in parts),
            sum(len(part.masks.codes) for part in parts if part.masks is not None),
            any(part.masks is not None for part in parts),
            self.num_images,
        )
        all_sizes = comm.all_gather(sizes) if distributed else [sizes]
        lengths, code_lengths, has_masks, num_images = zip(*all_sizes, strict=True)
        # Where the next detection of each process goes
        starts, code_starts = (np.cumsum([0, *n[:-1]]) for n in (lengths, code_lengths))
        result = None
        if not distributed or comm.is_main_process():
            result = Detections.blank(sum(lengths), sum(code_lengths) if any(has_masks) else None)
        parts.reverse()  # they are taken from the end
        left = list(lengths)
        while any(left):
            chunk = _take(parts, min(CHUNK, max(left)))
            for rank, part in enumerate(comm.gather(chunk) if distributed else [chunk]):
                result.put(part, starts[rank], code_starts[rank])
                starts[rank] += len(part)
                code_starts[rank] += len(part.masks.codes) if part.masks is not None else 0
            taken = comm.all_gather(len(chunk)) if distributed else [len(chunk)]
            left = [n - t for n, t in zip(left, taken, strict=True)]
        return None if result is None else (result, sum(num_images))


def _take(parts: list[Detections], at_least: int) -> Detections:
    """The last parts, the last first, removed from the list and put into one."""
    taken, length = [], 0
    while parts and length < at_least:
        taken.append(parts.pop())
        length += len(taken[-1])
    code_lengths = [0 if part.masks is None else len(part.masks.codes) for part in taken]
    has_masks = any(part.masks is not None for part in taken)
    chunk = Detections.blank(length, sum(code_lengths) if has_masks else None)
    start = code_start = 0
    for part, code_length in zip(taken, code_lengths, strict=True):
        chunk.put(part, start, code_start)
        start, code_start = start + len(part), code_start + code_length
    return chunk
