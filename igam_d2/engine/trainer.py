"""Detectron2's default trainer with information amounts, checked data and the set's evaluator."""

import logging
import math
import weakref

from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import verify_results

from ..data import check_test_datasets, load_training_set
from ..evaluation import build_evaluator
from .checkpoint import Checkpointer
from .information_hook import InformationAmountHook

__all__ = ["Trainer"]


class Trainer(DefaultTrainer):
    """`Trainer(cfg)`, `resume_or_load(resume=...)`, `train()`, as in Detectron2."""

    def __init__(self, cfg):
        check_test_datasets(cfg)
        super().__init__(cfg)

    @classmethod
    def build_train_loader(cls, cfg):
        dataset = load_training_set(cfg)
        loader = build_detection_train_loader(cfg, dataset=dataset)
        loader.epoch_length = math.ceil(len(dataset) / cfg.SOLVER.IMS_PER_BATCH)
        return loader

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def evaluate(cls, cfg, model, *, resume: bool = False):
        """Evaluates MODEL.WEIGHTS, or with `resume` the last checkpoint, on DATASETS.TEST."""
        check_test_datasets(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, exact=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        results = cls.test(cfg, model)
        verify_results(cfg, results)
        return results

    def build_hooks(self):
        cfg = self.cfg
        # DefaultTrainer has just made its checkpointer, and its hooks are about to refer to it.
        self.checkpointer = Checkpointer(self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        epoch = self._trainer.data_loader.epoch_length
        period = cfg.MODEL.IGAM.REFRESH_PERIOD or epoch
        if period > self.max_iter:
            logging.getLogger(__name__).warning(
                "The information amounts are refreshed every %d iterations, but training ends "
                "after %d: no margin will ever be set.",
                *(period, self.max_iter),
            )
        information = InformationAmountHook(
            self.model,
            period=period,
            queue_length=cfg.MODEL.IGAM.QUEUE_LENGTH,
            shrinkage=cfg.MODEL.IGAM.SHRINKAGE,
            checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
            output_dir=cfg.OUTPUT_DIR,
        )
        # First, so that the checkpointer and the writers find the refreshed state.
        return [information, *super().build_hooks()]
