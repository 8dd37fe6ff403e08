"""Weights as their authors published them, recognised by their names."""

import logging
import math
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

_PIXEL_MEAN = [123.675, 116.28, 103.53]  # of RGB images, in all that is recognised here
_PIXEL_STD = [58.395, 57.12, 57.375]


def from_published(
    model: nn.Module, state: Mapping[str, Tensor], path: str
) -> Mapping[str, Tensor]:
    """The weights under the names of `model`, if they are those of a published file that has a
    place in it; else `state` itself.

    All of them are of RGB images normalised as in torchvision: a model that normalises otherwise
    gets a warning.

    Args:
        path: of the file, for messages.

    Raises:
        InputError: a backbone's, for a model with another or none: it would start untrained. A
            DETR's, for another meta architecture, or over another backbone.
    """
    for convert in (_detr, _swin, _resnet):
        try:
            converted = convert(model, state)
        except InputError as error:
            raise InputError(f"The weights {path!r} do not fit: {error}.") from error
        if converted is not None:
            _check_normalisation(model, path)
            return converted
    return state


def _detr(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    if not is_published_detr(state) or is_published_detr(model.state_dict()):
        return None
    if not isinstance(model, DETR):
        raise InputError(
            "they are those of a DETR, which this model is not: set MODEL.META_ARCHITECTURE to "
            "DETR, or take weights of its own"
        )
    name, backbone = _first(model, ResNet)
    if backbone is None:
        raise InputError(
            "they are those of a DETR over a ResNet, which this model has not: set "
            "MODEL.BACKBONE.NAME to build_resnet_backbone, or take weights of its own"
        )
    return published_detr(backbone, name, state)


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
        "The weights are those of a Swin classifier, of RGB images normalised as in torchvision: "
        "%d of %d go into %s, whose output norms start untrained.",
        *(len(converted), len(state), name or "the model"),
    )
    return {f"{name}.{key}".removeprefix("."): value for key, value in converted.items()}


def _resnet(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    if not is_published_resnet(state) or is_published_resnet(model.state_dict()):
        return None
    name, backbone = _first(model, ResNet)
    if backbone is None:
        raise InputError(
            "they are those of torchvision's ResNet, which this model has not: set "
            "MODEL.BACKBONE.NAME to build_resnet_fpn_backbone or build_resnet_backbone, or take "
            "weights of its own"
        )
    converted = published_resnet(backbone, state)
    logging.getLogger(__name__).info(
        "The weights are those of torchvision's ResNet, of RGB images normalised as there: %d of "
        "%d go into %s.",
        *(len(converted), len(state), name or "the model"),
    )
    return {f"{name}.{key}".removeprefix("."): value for key, value in converted.items()}


def _first(model: nn.Module, kind: type[nn.Module]) -> tuple[str, nn.Module | None]:
    modules = ((name, m) for name, m in model.named_modules() if isinstance(m, kind))
    return next(modules, ("", None))


def _check_normalisation(model: nn.Module, path: str) -> None:
    """Warns of images in another order of channels or on another scale than the weights'."""
    if not hasattr(model, "pixel_mean") or not hasattr(model, "pixel_std"):
        return
    mean, std = (buffer.flatten().tolist() for buffer in (model.pixel_mean, model.pixel_std))
    image_format = getattr(model, "input_format", None)  # of a GeneralizedRCNN
    if image_format in (None, "RGB") and _is_near(mean, _PIXEL_MEAN) and _is_near(std, _PIXEL_STD):
        return
    own = f"MODEL.PIXEL_MEAN {_rounded(mean)}, MODEL.PIXEL_STD {_rounded(std)}"
    logging.getLogger(__name__).warning(
        "The weights %r are of RGB images normalised as in torchvision, and this model's images "
        "are others (%s%s): set INPUT.FORMAT to RGB, MODEL.PIXEL_MEAN to %s and MODEL.PIXEL_STD to "
        "%s.",
        *(path, f"INPUT.FORMAT {image_format}, " if image_format else "", own),
        *(_PIXEL_MEAN, _PIXEL_STD),
    )


def _is_near(values: list[float], expected: list[float]) -> bool:
    """Within 10 %, which is less than between the means of red and of blue."""
    return len(values) == len(expected) and all(
        math.isclose(value, other, rel_tol=0.1)
        for value, other in zip(values, expected, strict=True)
    )


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]  # float32 in the model
