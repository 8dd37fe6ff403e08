"""Optimisers and their groups of parameters, from a config."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from ..errors import InputError

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """The optimiser that SOLVER.OPTIMIZER names, over the parameters of `model` that are trained.

    With the defaults it does what Detectron2's does. Gradients are not clipped in it, see
    :class:`GradientClippingHook`. A state to resume from may be that of another kernel (fused or
    not) or memory format; that of another optimiser, or of other groups, is an `InputError`.

    Args:
        model: on its device, not wrapped for several processes; its backbone is `model.backbone`.
    """
    solver = cfg.SOLVER
    groups = _parameter_groups(solver, model)
    # Both for many parameters at a time: a kernel for the whole update, or one for each operation
    kernel = {"fused": True} if solver.FUSED else {"foreach": True}
    options = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, **kernel}
    if solver.OPTIMIZER == "AdamW":
        optimizer = AdamW(groups, betas=(0.9, 0.999), **options)
    else:
        optimizer = SGD(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **options)
        _fill_momentum(optimizer)
        optimizer.register_load_state_dict_post_hook(_fill_momentum)
    optimizer.register_load_state_dict_pre_hook(_fit_groups)
    optimizer.register_load_state_dict_post_hook(_fit_memory_format)
    return optimizer


def _parameter_groups(solver: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    def lr_factor(name: str) -> float:
        factor = solver.BACKBONE_LR_FACTOR if name.startswith("backbone.") else 1.0
        # Not as Detectron2's `bias_lr_factor`, which would take the place of the backbone's
        return factor * solver.BIAS_LR_FACTOR if name.endswith(".bias") else factor

    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    if unknown := [name for name in solver.NO_DECAY if name not in names]:
        logging.getLogger(__name__).warning(
            "SOLVER.NO_DECAY has %s, which no name of a parameter ends with: no effect.",
            ", ".join(map(repr, unknown)),
        )
    overrides = {name: {"weight_decay": 0.0} for name in solver.NO_DECAY}
    if solver.WEIGHT_DECAY_BIAS is not None:
        overrides.setdefault("bias", {"weight_decay": solver.WEIGHT_DECAY_BIAS})
    return get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        lr_factor_func=lr_factor,
        overrides=overrides,
    )


def _fit_groups(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """The saved state, for this optimiser's kernel.

    Raises:
        InputError: it is not of this kind of optimiser, or not of these groups.
    """
    own, other = _describe(optimizer.param_groups), _describe(saved["param_groups"])
    if own != other:
        raise InputError(
            f"The checkpoint to resume from was trained with {other} and this run has {own}: set "
            "SOLVER.OPTIMIZER, BACKBONE_LR_FACTOR, NO_DECAY and the like, and what is frozen, to "
            "what it was trained with."
        )
    kernel = {key: optimizer.defaults[key] for key in ("foreach", "fused")}
    return saved | {"param_groups": [group | kernel for group in saved["param_groups"]]}


def _describe(groups: list[dict[str, Any]]) -> str:
    sizes = " + ".join(str(len(group["params"])) for group in groups)
    return f"{'AdamW' if 'betas' in groups[0] else 'SGD'} over {sizes} parameters"


def _fill_momentum(optimizer: SGD) -> None:
    """Zeros in the place of momentum that is not there, also after loading, for the fused kernel.

    PyTorch makes it in the first step, uninitialised, and so it stays where a gradient scaler skips
    that step; from zero the first step is the same.
    """
    for group in optimizer.param_groups:
        for p in group["params"] if group["fused"] and group["momentum"] else ():
            if optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def _fit_memory_format(optimizer: Optimizer) -> None:
    """Brings the state into the memory format of its parameters, on which fused kernels rely."""
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == p.shape and value.stride() != p.stride():
                state[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)
