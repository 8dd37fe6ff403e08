"""Names of published DETR weights (github.com/facebookresearch/detr) in this project's model."""

import logging
import re
from collections.abc import Mapping

from detectron2.modeling.backbone import ResNet
from torch import Tensor

from ..backbone.resnet_weights import fitting_resnet, resnet_name

__all__ = ["is_published_detr", "published_detr"]

_TORCHVISION = "backbone.0.body."
_DETECTRON2 = "backbone.0.backbone."  # by its wrapper, with its names within the ResNet


def is_published_detr(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights by their names: also as Detectron2's wrapper has them, in which
    all begin with "detr."."""
    return any(key.removeprefix("detr.") == "bbox_embed.layers.0.weight" for key in state)


def published_detr(
    resnet: ResNet, resnet_path: str, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights under the names of :class:`DETR`, over Detectron2's ResNet.

    All but the classifier, which is of COCO's ids and of another kind: a message says so. The
    weights are of RGB images, normalised as in torchvision, and of a ResNet whose stride is in the
    3 x 3 convolutions (MODEL.RESNETS.STRIDE_IN_1X1 False).

    Args:
        resnet: the model's, which is its module `resnet_path`.

    Raises:
        InputError: they are over another ResNet, see :func:`fitting_resnet`.
    """
    renamed, of_resnet, left_out = {}, {}, []
    for key, value in state.items():
        name = key.removeprefix("detr.")
        if name.startswith(_TORCHVISION):
            of_resnet[resnet_name(name.removeprefix(_TORCHVISION))] = value
        elif name.startswith(_DETECTRON2):
            of_resnet[name.removeprefix(_DETECTRON2)] = value
        elif name.startswith("class_embed."):
            left_out.append(f"{key} {tuple(value.shape)}")
        elif not name.startswith("criterion."):  # a constant: the weight of "no object"
            renamed[_name(name)] = value
    of_resnet = fitting_resnet(resnet, of_resnet)
    if left_out:
        logging.getLogger(__name__).info(
            "The weights are those of facebookresearch's DETR, of RGB images normalised as in "
            "torchvision, taken over but for its classifier, %s, in whose place this "
            "model's starts untrained.",
            " and ".join(left_out),
        )
    return renamed | {f"{resnet_path}.{key}": value for key, value in of_resnet.items()}


def _name(name: str) -> str:
    if layer := re.fullmatch(r"bbox_embed\.layers\.(\d)\.(weight|bias)", name):
        return f"bbox_embed.{2 * int(layer[1])}.{layer[2]}"  # with a ReLU between each two
    return name
