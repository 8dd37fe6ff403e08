"""Test loaders whose workers stay between the evaluations of a run."""

from detectron2.engine import DefaultTrainer
from torch.utils.data import DataLoader

from ..data.train_loader import init_worker

__all__ = ["keeping_test_loaders"]


def keeping_test_loaders(
    trainer_class: type[DefaultTrainer], loaders: dict[str, DataLoader]
) -> type[DefaultTrainer]:
    """A subclass that makes the loader of each test set, and its workers, no more than once.

    Args:
        loaders: where they are kept, by the name of the test set; for a single config. Who clears
            it ends the workers.
    """

    class KeepingTrainer(trainer_class):
        @classmethod
        def build_test_loader(cls, cfg, dataset_name):
            if dataset_name not in loaders:
                loaders[dataset_name] = _persistent(super().build_test_loader(cfg, dataset_name))
            return loaders[dataset_name]

    return KeepingTrainer


def _persistent(loader: DataLoader) -> DataLoader:
    """The same loader with workers that stay; like those of the training, they go through a SIGTERM
    to all processes, which would otherwise end the run through them."""
    if not loader.num_workers:
        return loader
    return DataLoader(
        loader.dataset,
        batch_sampler=loader.batch_sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=init_worker,
        persistent_workers=True,
    )
