"""The training set as one stream of batches for all processes, which a resumed run goes on with."""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.utils import comm
from torch.utils.data import DataLoader, Sampler

from ..errors import InputError
from .mapper import CheckedMapper, TrainingImages, max_bad_images
from .samplers import build_train_sampler

__all__ = ["BatchStream", "build_train_loader", "init_worker"]


class BatchStream(Sampler):
    """Batches of indices without end; each process takes its share of every batch.

    The stream is that of all processes together, so that it does not depend on their number.
    Images are grouped before they are loaded: batches are known from the seed alone, and a resumed
    run goes on behind the last batch that was trained on, whatever workers had loaded ahead.
    """

    def __init__(
        self,
        make_sampler: Callable[[int], Sampler],
        batch_size: int,
        *,
        groups: list[int] | None = None,
    ):
        """
        Args:
            make_sampler: seed -> a training sampler, as Detectron2's or this package's.
            batch_size: images of a batch, of all processes together.
            groups: of each image; batches are of one group. None for a single one.

        Raises:
            InputError: a batch that the processes cannot share equally.
        """
        self._rank, num_processes = comm.get_rank(), comm.get_world_size()
        if batch_size < 1 or batch_size % num_processes:
            raise InputError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}: it must be a positive multiple of the "
                f"number of processes, which is {num_processes}."
            )
        self._make_sampler = make_sampler
        self._batch_size, self._share = batch_size, batch_size // num_processes
        self._groups = groups
        self._seed, self._num_skipped = comm.shared_random_seed(), 0
        self.num_images_before = 0  # that a run which is resumed had drawn
        # Seeds the loader's workers, which would otherwise take a number from the random state of
        # the training, at another time in a resumed run
        self.generator = torch.Generator()
        self._seed_workers()

    def __iter__(self) -> Iterator[list[int]]:
        start = self._rank * self._share
        for batch in islice(self._batches(), self._num_skipped, None):
            yield batch[start : start + self._share]

    def _batches(self) -> Iterator[list[int]]:
        pending: dict[int, list[int]] = {}
        # Not its iterator, which gives this process's part of the indices alone
        for index in self._make_sampler(self._seed)._infinite_indices():
            group = pending.setdefault(self._groups[index] if self._groups else 0, [])
            group.append(index)
            if len(group) == self._batch_size:
                yield group.copy()
                group.clear()

    def state_dict(self, num_batches: int) -> dict[str, int]:
        """Position after `num_batches` more than were skipped at the start."""
        images = (self._num_skipped + num_batches) * self._batch_size
        return {"seed": self._seed, "num_images": images}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from that position; to the batch if the batch size is the same."""
        self._seed, self.num_images_before = state["seed"], state["num_images"]
        self._num_skipped = self.num_images_before // self._batch_size
        self._seed_workers()

    def _seed_workers(self) -> None:
        entropy = [self._seed, self._num_skipped, self._rank]
        self.generator.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def build_train_loader(
    cfg: CfgNode, records: list[dict], *, mapper: Callable[[dict], dict] | None = None
) -> DataLoader:
    """Detectron2's training loader over a :class:`BatchStream`, its `batch_sampler`, with the
    sampler that DATALOADER.SAMPLER_TRAIN names; images that cannot be read are passed over as
    DATALOADER.MAX_BAD_IMAGES says.

    Args:
        records: of the training set, in Detectron2's format.
        mapper: of a record; None for a :class:`CheckedMapper`.

    Returns:
        An endless loader of lists of mapped records; its `epoch_length` is the number of records
        over the batch size, whatever the sampler repeats or leaves out.

    Raises:
        InputError: a sampler that is not known or has nothing to draw, a batch that cannot be
            shared; while it loads: an image that cannot be read, one too many.
    """
    loader = cfg.DATALOADER
    groups = None
    if loader.ASPECT_RATIO_GROUPING:
        groups = [int(record["width"] > record["height"]) for record in records]
    stream = BatchStream(build_train_sampler(cfg, records), cfg.SOLVER.IMS_PER_BATCH, groups=groups)
    mapper, max_bad = mapper or CheckedMapper(cfg, is_train=True), max_bad_images(cfg)
    data_loader = DataLoader(
        TrainingImages(records, mapper, max_bad=max_bad, groups=groups),
        batch_sampler=stream,
        num_workers=loader.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=init_worker,
        persistent_workers=loader.PERSISTENT_WORKERS and loader.NUM_WORKERS > 0,
        generator=stream.generator,
    )
    data_loader.epoch_length = math.ceil(len(records) / cfg.SOLVER.IMS_PER_BATCH)
    return data_loader


def init_worker(worker_id: int) -> None:
    """For workers that live beside a training."""
    worker_init_reset_seed(worker_id)
    # Some schedulers signal every process of a job: a worker that ended at once would take the
    # training with it before the checkpoint is written. SIGTERM is for it to obey only from the
    # process that it loads for, which ends its workers that way.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
