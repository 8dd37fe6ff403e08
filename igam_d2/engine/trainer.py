"""Detectron2's default trainer with information amounts, checked data and the set's evaluator."""

import logging
import weakref

import torch
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel

from ..data import (
    CheckedMapper,
    build_test_loader,
    build_train_loader,
    check_test_datasets,
    load_training_set,
    register_datasets,
)
from ..evaluation import build_evaluator, information_of
from .checkpoint import Checkpointer
from .checkpoint_hook import CheckpointHook
from .clip_hook import GradientClippingHook
from .figure_hook import DetectionFigureHook
from .freeze import freeze_detector, second_stage_loss
from .information_hook import InformationAmountHook
from .kept_loaders import keeping_test_loaders
from .optimizer import build_optimizer
from .schedule import resolve_schedule, warn_of_other_batches

__all__ = ["Trainer"]


class Trainer(DefaultTrainer):
    """`Trainer(cfg)`, `resume_or_load(resume=...)`, `train()`, as in Detectron2.

    A resumed run goes on with the data, the random state and the statistics where the checkpoint
    left them, see :class:`CheckpointHook`; it may have another number of processes.
    """

    def __init__(self, cfg):
        register_datasets(cfg)
        check_test_datasets(cfg)
        # In place of DefaultTrainer's constructor, which names a GPU to DistributedDataParallel
        # that several processes on the CPU do not have
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        data_loader = self.build_train_loader(cfg)
        cfg = resolve_schedule(cfg, data_loader.epoch_length)
        optimizer = self.build_optimizer(cfg, model)
        ddp = {
            "broadcast_buffers": False,
            "find_unused_parameters": cfg.SOLVER.FIND_UNUSED_PARAMETERS,
        }
        if comm.get_world_size() > 1 and cfg.MODEL.DEVICE == "cpu":
            model = DistributedDataParallel(model, **ddp)
        else:
            model = create_ddp_model(model, **ddp)
        self._trainer = build_steps(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._test_loaders = {}
        if cfg.DATALOADER.PERSISTENT_WORKERS:
            self.test = keeping_test_loaders(type(self), self._test_loaders).test
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume=True):
        """As in Detectron2; a checkpoint of another batch size is said to be one."""
        super().resume_or_load(resume)
        loader = self._trainer.data_loader
        images = loader.batch_sampler.num_images_before
        warn_of_other_batches(self.cfg, loader.epoch_length, self.start_iter, images)

    def after_train(self):
        try:
            super().after_train()
        finally:
            self._test_loaders.clear()

    def load_state_dict(self, state_dict):
        """As in Detectron2; the checkpoint may be one without a gradient scaler."""
        steps = state_dict["_trainer"]
        if isinstance(self._trainer, AMPTrainer) and not steps.get("grad_scaler"):
            scaler = self._trainer.grad_scaler.state_dict()
            state_dict = state_dict | {"_trainer": steps | {"grad_scaler": scaler}}
        super().load_state_dict(state_dict)

    @classmethod
    def build_model(cls, cfg):
        """As in Detectron2; with a loss of a second stage, all but its parameters are frozen."""
        register_datasets(cfg)  # the classes may have to be counted
        model = super().build_model(cfg)
        if second_stage_loss(model) is not None:
            model = freeze_detector(model)
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg, load_training_set(cfg))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """As in Detectron2; the evaluators know the model's information amounts."""
        if evaluators is None:
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            for evaluator in evaluators:
                evaluator.information = information_of(model)
        return super().test(cfg, model, evaluators)

    @classmethod
    def evaluate(cls, cfg, model, *, resume: bool = False):
        """Evaluates MODEL.WEIGHTS, or with `resume` the last checkpoint, on DATASETS.TEST."""
        register_datasets(cfg)
        check_test_datasets(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, exact=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        results = cls.test(cfg, model)
        verify_results(cfg, results)
        return results

    def build_hooks(self):
        cfg = self.cfg
        loader = self._trainer.data_loader
        period = cfg.MODEL.IGAM.REFRESH_PERIOD or loader.epoch_length
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
            output_dir=cfg.OUTPUT_DIR,
        )
        checkpoints = CheckpointHook(
            self.checkpointer,
            loader.batch_sampler,
            period=cfg.SOLVER.CHECKPOINT_PERIOD,
            eval_period=cfg.TEST.EVAL_PERIOD,
            collect=information.collect,
        )
        default = [
            hook
            for hook in super().build_hooks()
            if hook is not None and not isinstance(hook, hooks.PeriodicCheckpointer)
        ]
        figures = []
        if cfg.VIS_PERIOD > 0 and cfg.DATASETS.TEST:
            mapper = CheckedMapper(cfg, is_train=False)
            name, period = cfg.DATASETS.TEST[0], cfg.VIS_PERIOD
            figures.append(DetectionFigureHook(self.model, name, mapper, period=period))
        # The first, so that the others find the refreshed state; checkpoints before evaluation, as
        # in Detectron2.
        place = next(i for i, hook in enumerate(default) if isinstance(hook, hooks.EvalHook))
        return [information, *default[:place], checkpoints, *figures, *default[place:]]


def build_steps(cfg, model, data_loader, optimizer) -> SimpleTrainer:
    """What runs the steps: with mixed precision or without, and gradient clipping."""
    steps = (model, data_loader, optimizer)
    if not cfg.SOLVER.AMP.ENABLED:
        trainer = SimpleTrainer(*steps)
    elif next(model.parameters()).device.type == "cuda":
        dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE)
        # bfloat16 reaches as far as float32: no gradient is lost that scaling would keep
        scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
        trainer = AMPTrainer(*steps, grad_scaler=scaler, precision=dtype)
    else:
        logging.getLogger(__name__).warning(
            "SOLVER.AMP.ENABLED is True, but mixed precision is for GPUs: MODEL.DEVICE %r trains "
            "in float32.",
            cfg.MODEL.DEVICE,
        )
        trainer = SimpleTrainer(*steps)
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        trainer.register_hooks([GradientClippingHook.from_config(cfg)])
    return trainer
