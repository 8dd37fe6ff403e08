"""The schedule of a run: its length in epochs and a batch size's learning rate, as iterations."""

import logging
from itertools import pairwise

from detectron2.config import CfgNode

from ..errors import InputError

__all__ = ["resolve_schedule", "warn_of_other_batches"]


def resolve_schedule(cfg: CfgNode, epoch_length: int) -> CfgNode:
    """A config in which Detectron2's own keys say what SOLVER.MAX_EPOCHS, STEPS_EPOCHS and
    REFERENCE_BATCH_SIZE mean for this data set and IMS_PER_BATCH, and logs them.

    An epoch is `epoch_length` iterations, its last batch filled up from the next one. Linear
    scaling (Goyal et al. 2017): learning rates times b / b0 and WARMUP_ITERS times b0 / b for
    batches of b images, where b0 is REFERENCE_BATCH_SIZE.

    Args:
        epoch_length: iterations of one epoch, the images over IMS_PER_BATCH.

    Returns:
        A new config, or `cfg` itself if these keys are 0. Resolving it again changes nothing.

    Raises:
        InputError: steps that fall on the same iteration or the last, or a warm-up that is not
            over before the rate drops: Detectron2 warms up to the rate at its end.
    """
    given = cfg.SOLVER
    scales = given.REFERENCE_BATCH_SIZE not in (0, given.IMS_PER_BATCH)
    if not given.MAX_EPOCHS and not scales:
        return cfg
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    solver = cfg.SOLVER
    if scales:
        scale = solver.IMS_PER_BATCH / solver.REFERENCE_BATCH_SIZE
        solver.BASE_LR *= scale
        solver.BASE_LR_END *= scale
        solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / scale)
        solver.REFERENCE_BATCH_SIZE = solver.IMS_PER_BATCH
    if solver.MAX_EPOCHS:
        solver.MAX_ITER = solver.MAX_EPOCHS * epoch_length
        solver.STEPS = tuple(round(epoch * epoch_length) for epoch in solver.STEPS_EPOCHS)
        _check(solver, epoch_length)
    _log(given, solver, epoch_length)
    if frozen:
        cfg.freeze()
    return cfg


def _check(solver: CfgNode, epoch_length: int) -> None:
    bounds = [0, *solver.STEPS, solver.MAX_ITER]
    if not all(a < b for a, b in pairwise(bounds)):
        raise InputError(
            f"SOLVER.STEPS_EPOCHS is {list(solver.STEPS_EPOCHS)}, which are the iterations "
            f"{', '.join(map(str, solver.STEPS))} of {solver.MAX_ITER} with {epoch_length} an "
            "epoch: they must differ, from 0 and from the last too."
        )
    name = "the first of the steps" if solver.STEPS else "the end of the run"
    if solver.WARMUP_FACTOR < 1 and bounds[1] <= solver.WARMUP_ITERS:
        raise InputError(
            f"The warm-up would last {solver.WARMUP_ITERS:,} iterations, and {name} is at "
            f"iteration {bounds[1]:,}, with {epoch_length:,} an epoch: lower SOLVER.WARMUP_ITERS "
            f"(which is for batches of SOLVER.REFERENCE_BATCH_SIZE, where that is set), or train "
            "for more epochs."
        )


def _log(given: CfgNode, solver: CfgNode, epoch_length: int) -> None:
    text = f"An epoch is {epoch_length:,} iterations of {solver.IMS_PER_BATCH} images"
    if solver.MAX_EPOCHS:
        steps = " and ".join(f"{step:,}" for step in solver.STEPS) or "none"
        text += (
            f"; MAX_EPOCHS {solver.MAX_EPOCHS}: MAX_ITER is {solver.MAX_ITER:,} and STEPS {steps}, "
            "whatever the config says of them"
        )
    if solver.REFERENCE_BATCH_SIZE != given.REFERENCE_BATCH_SIZE:
        text += (
            f"; REFERENCE_BATCH_SIZE {given.REFERENCE_BATCH_SIZE}: BASE_LR is {solver.BASE_LR:g} "
            f"in place of {given.BASE_LR:g}, WARMUP_ITERS {solver.WARMUP_ITERS:,} in place of "
            f"{given.WARMUP_ITERS:,}"
        )
    logging.getLogger(__name__).info("%s.", text)


def warn_of_other_batches(cfg: CfgNode, epoch_length: int, start_iter: int, images: int) -> None:
    """Says what becomes of a schedule if the run that is resumed had batches of another size.

    Args:
        cfg, epoch_length: as resolved.
        start_iter: iterations that the run had done.
        images: that it had seen in these.
    """
    batch, end = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER
    if images in (0, start_iter * batch):
        return
    epochs = (images + max(0, end - start_iter) * batch) / (epoch_length * batch)
    logging.getLogger(__name__).warning(
        "The %s iterations of the checkpoint saw %s images, not the %s of SOLVER.IMS_PER_BATCH %d: "
        "its batches had another size. Iterations are counted on from there, with the learning "
        "rate of the checkpoint, and the run ends at iteration %s, after %.1f epochs in all; "
        "IMS_PER_BATCH as it was keeps the schedule.",
        *(f"{start_iter:,}", f"{images:,}", f"{start_iter * batch:,}", batch, f"{end:,}", epochs),
    )
