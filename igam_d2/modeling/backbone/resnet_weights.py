"""Names of torchvision's ResNet weights in Detectron2's ResNet."""

import re
from collections.abc import Mapping

from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor

from ...errors import InputError

__all__ = ["fitting_resnet", "is_published_resnet", "published_resnet", "resnet_name"]


def is_published_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a ResNet of torchvision alone, by their names."""
    return "layer1.0.conv1.weight" in state and "bn1.running_mean" in state


def published_resnet(model: ResNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `model` takes of them: not the classifier, and stages that it does not have.

    The weights are of RGB images.

    Raises:
        InputError: as :func:`fitting_resnet`.
    """
    return fitting_resnet(model, {resnet_name(key): value for key, value in state.items()})


def fitting_resnet(model: ResNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `model` takes of torchvision's weights that have the names of Detectron2's ResNet.

    Raises:
        InputError: a ResNet of another depth or width, or with its strides in other layers, where
            the weights would fit and be wrong.
    """
    stages = tuple(f"{name}." for name in ("stem", *model.stage_names))
    used = {key: v for key, v in state.items() if _is_used(key) and key.startswith(stages)}
    own = {key: v.shape for key, v in model.state_dict().items() if _is_used(key)}
    found = {key: v.shape for key, v in used.items()}
    if differing := sorted({key for key, _ in own.items() ^ found.items()}):
        raise InputError(
            f"they are of another ResNet than this model's ({differing[0]} is not the same in "
            f"both, and {len(differing) - 1} more): set MODEL.RESNETS.DEPTH to theirs, or take "
            "weights of its own"
        )
    blocks = (block for block in model.modules() if isinstance(block, BottleneckBlock))
    if any(block.conv1.stride != (1, 1) for block in blocks):
        raise InputError(
            "they are torchvision's, whose strides are in the 3 x 3 convolutions: set "
            "MODEL.RESNETS.STRIDE_IN_1X1 to False"
        )
    return used


def _is_used(name: str) -> bool:
    return not name.startswith(("fc.", "linear.")) and not name.endswith("num_batches_tracked")


def resnet_name(name: str) -> str:
    """The name in Detectron2's ResNet of a parameter or buffer of torchvision's."""
    name = re.sub(r"^(?=conv1\.|bn1\.)", "stem.", name)
    name = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
