"""Names of published DETR weights (github.com/facebookresearch/detr) in this project's model."""

import logging
import re
from collections.abc import Mapping

from torch import Tensor

from ..backbone.resnet_weights import resnet_name

__all__ = ["is_published_detr", "published_detr"]


def is_published_detr(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights by their names: also as Detectron2's wrapper has them, in which
    all begin with "detr."."""
    return any(key.removeprefix("detr.") == "bbox_embed.layers.0.weight" for key in state)


def published_detr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of :class:`DETR`, over Detectron2's ResNet.

    All but the classifier, which is of COCO's ids and of another kind: a message says so. The
    weights are of RGB images, normalised as in torchvision, and of a ResNet whose stride is in the
    3 x 3 convolutions (MODEL.RESNETS.STRIDE_IN_1X1 False).
    """
    renamed, left_out = {}, []
    for key, value in state.items():
        name = key.removeprefix("detr.")
        if name.startswith("class_embed."):
            left_out.append(f"{key} {tuple(value.shape)}")
        elif not name.startswith("criterion."):  # a constant: the weight of "no object"
            renamed[_name(name)] = value
    if left_out:
        logging.getLogger(__name__).info(
            "The weights are those of facebookresearch's DETR, taken over but for its classifier, "
            "%s, in whose place this model's starts untrained.",
            " and ".join(left_out),
        )
    return renamed


def _name(name: str) -> str:
    if layer := re.fullmatch(r"bbox_embed\.layers\.(\d)\.(weight|bias)", name):
        return f"bbox_embed.{2 * int(layer[1])}.{layer[2]}"  # with a ReLU between each two
    if name.startswith("backbone.0.body."):
        return "backbone." + resnet_name(name.removeprefix("backbone.0.body."))
    # As Detectron2's wrapper has it, whose names within the ResNet are Detectron2's
    return re.sub(r"^backbone\.0\.backbone\.", "backbone.", name)
