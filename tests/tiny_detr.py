"""A tiny DETR for the tests, over images of 64 px, with the project's ten classes."""

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

LAYERS, QUERIES, DIM = 3, 7, 16


def tiny_detr(cfg: CfgNode, *opts) -> CfgNode:
    """The config of the tests as one of DETR, with further keys and values."""
    own = [
        *("MODEL.META_ARCHITECTURE", "DETR"),
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res5"]),
        *("MODEL.DETR.HIDDEN_DIM", DIM, "MODEL.DETR.NUM_HEADS", 2),
        *("MODEL.DETR.ENC_LAYERS", 2, "MODEL.DETR.DEC_LAYERS", LAYERS),
        *("MODEL.DETR.DIM_FEEDFORWARD", 24, "MODEL.DETR.NUM_QUERIES", QUERIES),
        *("MODEL.PIXEL_STD", [57.0, 57.0, 57.0]),
    ]
    cfg.merge_from_list([*own, *opts])
    return cfg


def record(
    boxes: list[list[float]], classes: list[int], size: tuple[int, int] = (64, 64), seed: int = 0
) -> dict:
    """An image of that height and width, with its instances."""
    truth = Instances(size)
    truth.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    truth.gt_classes = torch.tensor(classes, dtype=torch.int64)
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)) * 255
    return {"image": image, "height": size[0], "width": size[1], "instances": truth}
