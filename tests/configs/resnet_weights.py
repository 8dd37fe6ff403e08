"""ResNets' weights in the layout of those that Detectron2 publishes, of random numbers."""

import pickle
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

__all__ = ["write_resnet_weights"]


def write_resnet_weights(cfg: CfgNode, path: Path) -> None:
    """Writes a `.pkl` as of ImageNetPretrained, for the ResNet of a config.

    The last norm of every block is a tenth of what a new one is: frozen, they would let the
    features of ResNet-101 grow to 1e5, and sigmoid losses to infinity.
    """
    torch.manual_seed(0)
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    weights = {}
    for name, value in backbone.state_dict().items():
        weights[name] = (value * 0.1 if name.endswith("conv3.norm.weight") else value).numpy()
    content = {"model": weights, "__author__": "tests", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
