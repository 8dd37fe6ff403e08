"""Weights as their authors published them, recognised by their names."""

import logging
from collections.abc import Mapping

from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import Tensor, nn

from ..errors import InputError
from ..modeling import DETR
from ..modeling.backbone.resnet_weights import is_published_resnet, published_resnet
from ..modeling.backbone.weights import is_published_swin, published_swin
from ..modeling.detr.weights import is_published_detr, published_detr

__all__ = ["from_published"]


def from_published(
    model: nn.Module, state: Mapping[str, Tensor], path: str
) -> Mapping[str, Tensor]:
    """The weights under the names of `model`, if they are those of a published file that has a
    place in it; else `state` itself.

    Args:
        path: of the file, for messages.

    Raises:
        InputError: a backbone's, for a model with another or none: it would start untrained.
    """
    for convert in (_detr, _swin, _resnet):
        try:
            converted = convert(model, state)
        except InputError as error:
            raise InputError(f"The weights {path!r} do not fit: {error}.") from error
        if converted is not None:
            return converted
    return state


def _detr(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    if not isinstance(model, DETR) or not is_published_detr(state):
        return None
    return published_detr(state)


def _swin(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    if not is_published_swin(state):
        return None
    name, backbone = _first(model, SwinTransformer)
    if backbone is None:
        raise InputError(
            "they are those of a Swin, which this model has not: set MODEL.BACKBONE.NAME to "
            "build_swin_fpn_backbone or build_swin_backbone"
        )
    converted = published_swin(backbone, state)
    logging.getLogger(__name__).info(
        "The weights are those of a Swin classifier: %d of %d go into %s, whose output norms start "
        "untrained.",
        *(len(converted), len(state), name or "the model"),
    )
    return {f"{name}.{key}".removeprefix("."): value for key, value in converted.items()}


def _resnet(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    name, backbone = _first(model, ResNet)
    if backbone is None or not is_published_resnet(state):
        return None
    converted = published_resnet(backbone, state)
    logging.getLogger(__name__).info(
        "The weights are those of torchvision's ResNet: %d of %d go into %s.",
        *(len(converted), len(state), name or "the model"),
    )
    return {f"{name}.{key}".removeprefix("."): value for key, value in converted.items()}


def _first(model: nn.Module, kind: type[nn.Module]) -> tuple[str, nn.Module | None]:
    modules = ((name, m) for name, m in model.named_modules() if isinstance(m, kind))
    return next(modules, ("", None))
