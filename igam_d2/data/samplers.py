"""Training samplers by name: Detectron2's, and one that draws classes equally often."""

from collections.abc import Callable, Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from torch import Tensor
from torch.utils.data import Sampler

from ..errors import InputError, closest

__all__ = ["TRAIN_SAMPLERS", "ClassAwareTrainingSampler", "build_train_sampler"]

DRAWS = 1024  # at a time, part of what a seed means


class ClassAwareTrainingSampler(TrainingSampler):
    """Draws a class, each equally often, then one of its images; without end.

    Shen et al. 2016, "Relay Backpropagation for Effective Learning of Deep CNNs".
    """

    def __init__(self, images_of_classes: list[Tensor], *, seed: int | None = None):
        """
        Args:
            images_of_classes: the indices of each class's images; a class without any is not drawn.
            seed: as of :class:`TrainingSampler`.
        """
        super().__init__(sum(map(len, images_of_classes)), seed=seed)
        self._images = torch.cat(images_of_classes)
        length = torch.tensor([len(images) for images in images_of_classes])
        start = length.cumsum(0) - length
        self._start, self._length = start[length > 0], length[length > 0]

    @staticmethod
    def images_of_classes(records: list[dict]) -> list[Tensor]:
        """Indices of the records that a class is annotated in, crowd regions left out.

        Raises:
            InputError: no annotation at all.
        """
        images: dict[int, list[int]] = {}
        for index, record in enumerate(records):
            annotations = record.get("annotations", ())
            for category in {a["category_id"] for a in annotations if not a.get("iscrowd", 0)}:
                images.setdefault(category, []).append(index)
        if not images:
            raise InputError(
                "DATALOADER.SAMPLER_TRAIN is 'ClassAwareTrainingSampler', but the data sets of "
                "DATASETS.TRAIN have no annotation whose class could be drawn: use "
                "'TrainingSampler'."
            )
        return [torch.tensor(images[category]) for category in sorted(images)]

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            classes = torch.randint(len(self._length), (DRAWS,), generator=generator)
            place = torch.rand(DRAWS, generator=generator, dtype=torch.float64)  # in [0, 1)
            place = (place * self._length[classes]).long()
            yield from self._images[self._start[classes] + place].tolist()


def _every_image(cfg: CfgNode, records: list[dict]):
    return lambda seed: TrainingSampler(len(records), seed=seed)


def _repeat_factor(cfg: CfgNode, records: list[dict]):
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )
    return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)


def _random_subset(cfg: CfgNode, records: list[dict]):
    ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    return lambda seed: RandomSubsetTrainingSampler(
        len(records), ratio, seed_shuffle=seed, seed_subset=seed
    )


def _class_aware(cfg: CfgNode, records: list[dict]):
    images = ClassAwareTrainingSampler.images_of_classes(records)
    return lambda seed: ClassAwareTrainingSampler(images, seed=seed)


# What DATALOADER.SAMPLER_TRAIN chooses from: (cfg, records) -> (seed -> sampler)
TRAIN_SAMPLERS: dict[str, Callable[[CfgNode, list[dict]], Callable[[int], Sampler]]] = {
    "TrainingSampler": _every_image,
    "RepeatFactorTrainingSampler": _repeat_factor,
    "RandomSubsetTrainingSampler": _random_subset,
    "ClassAwareTrainingSampler": _class_aware,
}


def build_train_sampler(cfg: CfgNode, records: list[dict]) -> Callable[[int], Sampler]:
    """seed -> the sampler that DATALOADER.SAMPLER_TRAIN names.

    Raises:
        InputError: an unknown name, or data that it has nothing to draw from.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in TRAIN_SAMPLERS:
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN is {name!r}{closest(name, TRAIN_SAMPLERS)}; it must be one "
            f"of: {', '.join(TRAIN_SAMPLERS)}."
        )
    return TRAIN_SAMPLERS[name](cfg, records)
