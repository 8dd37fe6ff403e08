"""Checks of the SOLVER keys of a config: schedule, optimiser, gradient clipping, precision."""

import math
from itertools import pairwise

from detectron2.config import CfgNode as CN

from .errors import InputError, closest

__all__ = ["check_solver"]

_CHOICES = {
    "OPTIMIZER": ("SGD", "AdamW"),
    "AMP.DTYPE": ("float16", "bfloat16"),
    # Of each element, of each parameter, and of all parameters together
    "CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
    # Those of Detectron2
    "LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
}


def check_solver(cfg: CN) -> None:
    """Raises an :class:`InputError` for the first value that is out of range."""
    solver = cfg.SOLVER
    for key, choices in _CHOICES.items():
        node, _, name = key.rpartition(".")
        value = (solver[node] if node else solver)[name]
        if value not in choices:
            raise InputError(
                f"SOLVER.{key} is {value!r}{closest(value, choices)}; it must be one of: "
                f"{', '.join(choices)}."
            )
    if not 0 <= solver.BACKBONE_LR_FACTOR < math.inf:
        raise InputError(
            f"SOLVER.BACKBONE_LR_FACTOR is {solver.BACKBONE_LR_FACTOR}: it must be at least 0, and "
            "finite (1.0 for the rate of the rest)."
        )
    if not all(isinstance(name, str) and "." not in name for name in solver.NO_DECAY):
        raise InputError(
            f"SOLVER.NO_DECAY is {solver.NO_DECAY}: it must be a list of the last parts of "
            "parameters' names, as in ['relative_position_bias_table']."
        )
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and not clip.CLIP_VALUE > 0:
        raise InputError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}: it must be above 0, or "
            "SOLVER.CLIP_GRADIENTS.ENABLED False."
        )
    if clip.ENABLED and not clip.NORM_TYPE > 0:
        raise InputError(
            f"SOLVER.CLIP_GRADIENTS.NORM_TYPE is {clip.NORM_TYPE}: it must be above 0 (2.0 for "
            "Euclid's norm)."
        )
    if solver.OPTIMIZER == "SGD" and solver.NESTEROV and not solver.MOMENTUM > 0:
        raise InputError(
            f"SOLVER.NESTEROV is True and MOMENTUM {solver.MOMENTUM}: it needs one above 0."
        )
    if solver.FUSED and cfg.MODEL.DEVICE.split(":")[0] not in ("cuda", "cpu"):
        raise InputError(
            f"SOLVER.FUSED is True, but there are no fused optimizers for MODEL.DEVICE "
            f"{cfg.MODEL.DEVICE!r}: set it to False."
        )
    _check_schedule(solver)


def _check_schedule(solver: CN) -> None:
    epochs, steps = solver.MAX_EPOCHS, solver.STEPS_EPOCHS
    for key in ("MAX_EPOCHS", "REFERENCE_BATCH_SIZE"):
        if solver[key] < 0:
            raise InputError(f"SOLVER.{key} is {solver[key]}: it must be at least 0 (0 for none).")
    if steps and not epochs:
        raise InputError(
            f"SOLVER.STEPS_EPOCHS is {steps}, but SOLVER.MAX_EPOCHS is 0: set that to the length "
            "of the training in epochs, or write SOLVER.STEPS in iterations."
        )
    numbers = all(isinstance(step, int | float) for step in steps)
    bounds = [0, *steps, epochs]
    if steps and not (numbers and all(a < b for a, b in pairwise(bounds))):
        raise InputError(
            f"SOLVER.STEPS_EPOCHS is {steps}: it must be numbers that ascend, above 0 and below "
            f"SOLVER.MAX_EPOCHS, which is {epochs}."
        )
    if solver.REFERENCE_BATCH_SIZE and solver.REFERENCE_WORLD_SIZE:
        raise InputError(
            f"SOLVER.REFERENCE_BATCH_SIZE is {solver.REFERENCE_BATCH_SIZE} and "
            f"REFERENCE_WORLD_SIZE {solver.REFERENCE_WORLD_SIZE}: both scale the learning rate, "
            "set one of them to 0."
        )
