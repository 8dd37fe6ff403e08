"""Images that cannot be read: named, and passed over up to a number of them."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    SizeMismatchError,
    check_image_size,
    read_image,
    transform_proposals,
)
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from .checks import explained

__all__ = [
    "CheckedMapper",
    "EvaluationImages",
    "TrainingImages",
    "UnreadableImageError",
    "build_test_loader",
    "max_bad_images",
]

KEY = "DATALOADER.MAX_BAD_IMAGES"
NAMED = 3  # of the images that cannot be read, in the sentence that ends a run


def max_bad_images(cfg: CfgNode) -> int:
    """How many images may be unreadable.

    Raises:
        InputError: fewer than none.
    """
    number = cfg.DATALOADER.get("MAX_BAD_IMAGES", 0)
    if number < 0:
        raise InputError(f"{KEY} is {number}: it must be at least 0 (0 to stop at the first one).")
    return number


class UnreadableImageError(InputError):
    """An image that is missing, cannot be decoded, or has another size than its record says."""

    def __init__(self, message: str, *, problem: str = ""):
        super().__init__(message)
        self.problem = problem


class CheckedMapper(DatasetMapper):
    """Detectron2's, which says of an image that cannot be read which one it is, and why.

    In training a record without the key `annotations` is one of an image without objects.
    """

    def __call__(self, dataset_dict):
        """
        Raises:
            UnreadableImageError: before a random number is drawn.
        """
        if self.is_train:
            dataset_dict = {"annotations": [], **dataset_dict}
        try:
            return super().__call__(dataset_dict)
        except Exception:  # decoders raise almost anything
            reason = self._why_unreadable(dataset_dict)
            if reason is None:
                raise
        problem = f"Image {dataset_dict['file_name']!r} cannot be read ({reason})"
        raise UnreadableImageError(
            f"{problem}: repair it, take it out of the annotations, or let such images be passed "
            f"over with {KEY}.",
            problem=problem,
        )

    def _why_unreadable(self, record: dict) -> str | None:
        try:
            check_image_size(dict(record), read_image(record["file_name"], self.image_format))
        except SizeMismatchError as error:
            got, expected = re.findall(r"\((\d+), (\d+)\)", str(error))[-2:]
            return f"it has {' x '.join(got)} pixels, the annotations say {' x '.join(expected)}"
        except Exception as error:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return re.sub(r" <_io\..*>", "", text)  # Python's name of the open file
        return None

    def blank(self, record: dict) -> dict:
        """A black image in the place of one, with the mark `unreadable`; without annotations.

        Args:
            record: with `height` and `width`.
        """
        channels = 1 if self.image_format == "L" else 3
        shape = (record["height"], record["width"], channels)
        black = T.AugInput(np.zeros(shape, dtype=np.uint8))
        transforms = self.augmentations(black)
        pixels = torch.from_numpy(np.ascontiguousarray(black.image.transpose(2, 0, 1)))
        kept = {key: value for key, value in record.items() if key != "annotations"}
        if self.proposal_topk is not None:
            size = tuple(pixels.shape[1:])
            transform_proposals(kept, size, transforms, proposal_topk=self.proposal_topk)
        return kept | {"image": pixels, "unreadable": True}


class _CheckedImages(Dataset):
    """Mapped records; those that cannot be read are counted, each once, over all workers."""

    then: str  # what becomes of an image that cannot be read

    def __init__(self, records: Sequence[dict], mapper: CheckedMapper, *, max_bad: int = 0):
        """
        Args:
            records: in Detectron2's format.
            max_bad: so many images may be unreadable.
        """
        self._records = DatasetFromList(records, copy=False)
        self._mapper, self._max_bad = mapper, max_bad
        self._is_bad = torch.zeros(len(records), dtype=torch.bool).share_memory_()

    def __len__(self):
        return len(self._records)

    def _count(self, index: int, error: UnreadableImageError) -> None:
        """
        Raises:
            InputError: one image too many.
        """
        if not self._max_bad:
            raise InputError(str(error)) from error
        is_new = not self._is_bad[index]
        self._is_bad[index] = True
        bad = self._is_bad.nonzero().flatten().tolist()
        if len(bad) > self._max_bad:
            names = ", ".join(repr(self._records[i]["file_name"]) for i in bad[:NAMED])
            more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
            raise InputError(
                f"{len(bad)} images cannot be read, and {KEY} is {self._max_bad}: repair {names}"
                f"{more}, take them out of the annotations, or raise it."
            ) from error
        if is_new:
            logging.getLogger(__name__).warning(
                "%s: %s (%d of at most %d such images).",
                *(error.problem, self.then, len(bad), self._max_bad),
            )


class TrainingImages(_CheckedImages):
    """In the place of an image that cannot be read comes the next one of its group that can.

    That is the same one every time, whatever was loaded before: a run that is resumed goes on as
    the uninterrupted one.
    """

    then = "another one takes its place"

    def __init__(
        self,
        records: Sequence[dict],
        mapper: CheckedMapper,
        *,
        max_bad: int = 0,
        groups: Sequence[int] | None = None,
    ):
        """
        Args:
            groups: of each image; batches are of one group. None for a single one.
            records, mapper, max_bad: as of :class:`_CheckedImages`.
        """
        super().__init__(records, mapper, max_bad=max_bad)
        self._groups = groups

    def __getitem__(self, index: int) -> dict:
        for candidate in self._instead_of(index):
            try:
                return self._mapper(self._records[candidate])
            except UnreadableImageError as error:
                self._count(candidate, error)
        raise InputError(
            f"None of {len(self)} images can be read, of which {KEY} allows {self._max_bad}."
        )

    def _instead_of(self, index: int) -> Iterator[int]:
        """The index itself, then the others of its group, then those of another group."""
        yield index
        following = [(index + step) % len(self) for step in range(1, len(self))]
        if self._groups is not None:  # a sort keeps the order of those that are equal
            following.sort(key=lambda other: self._groups[other] != self._groups[index])
        yield from following


class EvaluationImages(_CheckedImages):
    """In the place of an image that cannot be read comes a black one, marked `unreadable`: the
    number of images stays what it is."""

    def __init__(
        self,
        records: Sequence[dict],
        mapper: CheckedMapper,
        *,
        max_bad: int = 0,
        then: str = "it counts as an image without detections",
    ):
        """
        Args:
            then: what is said to become of such an image.
            records, mapper, max_bad: as of :class:`_CheckedImages`.
        """
        super().__init__(records, mapper, max_bad=max_bad)
        self.then = then

    def __getitem__(self, index: int) -> dict:
        record = self._records[index]
        try:
            return self._mapper(record)
        except UnreadableImageError as error:
            self._count(index, error)
            if "height" not in record or "width" not in record:
                raise InputError(str(error)) from error
        return self._mapper.blank(record)


def build_test_loader(
    cfg: CfgNode, dataset_name: str, *, mapper: Callable[[dict], dict] | None = None
) -> DataLoader:
    """Detectron2's test loader over :class:`EvaluationImages`.

    Args:
        mapper: of a record; None for a :class:`CheckedMapper`.

    Raises:
        InputError: annotations that cannot be read, a limit below 0.
    """
    proposal_files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        place = list(cfg.DATASETS.TEST).index(dataset_name)
        proposal_files = [cfg.DATASETS.PROPOSAL_FILES_TEST[place]]
    with explained([dataset_name]):
        records = get_detection_dataset_dicts(
            [dataset_name], filter_empty=False, proposal_files=proposal_files
        )
    mapper = mapper or CheckedMapper(cfg, is_train=False)
    images = EvaluationImages(records, mapper, max_bad=max_bad_images(cfg))
    return build_detection_test_loader(images, mapper=None, num_workers=cfg.DATALOADER.NUM_WORKERS)
