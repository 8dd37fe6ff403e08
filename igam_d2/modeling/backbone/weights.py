"""Names of published Swin weights (github.com/microsoft/Swin-Transformer) in Detectron2's Swin."""

import math
import re
from collections.abc import Mapping
from typing import Any

from detectron2.modeling.backbone.swin import SwinTransformer
from torch import Tensor

from ...errors import InputError

__all__ = ["is_published_swin", "published_swin"]

_TABLE = "attn.relative_position_bias_table"


def is_published_swin(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a Swin alone, by their names, which are Detectron2's too."""
    return "patch_embed.proj.weight" in state and f"layers.0.blocks.0.{_TABLE}" in state


def published_swin(model: SwinTransformer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `model` takes of them: not the classifier and its norm, masks, which are computed, and
    stages that it does not have.

    The norms of its outputs are not in the weights. These are of RGB images.

    Raises:
        InputError: the weights of a Swin of another width, depth or window.
    """
    found, own = _sizes(state), _sizes(model.state_dict())
    stages = len(own["DEPTHS"])
    differing = [
        key
        for key, value in found.items()
        if (value[:stages] if isinstance(value, list) else value) != own[key]
    ]
    if differing:
        needed, has = (
            ", ".join(f"{key} {sizes[key]}" for key in differing) for sizes in (found, own)
        )
        raise InputError(
            f"they are of another Swin than this model's: set MODEL.SWIN to theirs, {needed} "
            f"(it has {has}), or take weights of its own"
        )
    left_out = r"head\.|norm\.|.*\.attn_mask$|layers\.\d+\."
    names = model.state_dict().keys()
    return {
        key: value for key, value in state.items() if key in names or not re.match(left_out, key)
    }


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keys of MODEL.SWIN and what these weights have there."""
    depths: list[int] = []
    while f"layers.{len(depths)}.blocks.0.{_TABLE}" in state:
        blocks = f"layers.{len(depths)}.blocks."
        depths.append(len({k.split(".")[3] for k in state if k.startswith(blocks)}))
    tables = [state[f"layers.{i}.blocks.0.{_TABLE}"] for i in range(len(depths))]
    return {
        "EMBED_DIM": state["patch_embed.proj.weight"].shape[0],
        "DEPTHS": depths,
        "NUM_HEADS": [table.shape[1] for table in tables],
        "WINDOW_SIZE": (math.isqrt(tables[0].shape[0]) + 1) // 2,  # (2 w - 1)^2 rows
    }
