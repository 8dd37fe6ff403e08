"""Checks of what a config says of DETR, before anything is built."""

import math

from detectron2.config import CfgNode

from ...errors import InputError

__all__ = ["check_detr"]


def check_detr(cfg: CfgNode) -> None:
    """Checks MODEL.DETR, and what has no place in it.

    Raises:
        InputError: the first value that is out of range, with what would be right.
    """
    detr = cfg.MODEL.DETR
    for key, least in (
        ("NUM_QUERIES", 1),
        ("HIDDEN_DIM", 4),
        ("NUM_HEADS", 1),
        ("ENC_LAYERS", 0),
        ("DEC_LAYERS", 1),
        ("DIM_FEEDFORWARD", 1),
    ):
        if detr[key] < least:
            raise InputError(f"MODEL.DETR.{key} is {detr[key]}: it must be at least {least}.")
    for divisor, what in ((4, "4, for the sine embeddings"), (detr.NUM_HEADS, "NUM_HEADS")):
        if detr.HIDDEN_DIM % divisor:
            raise InputError(
                f"MODEL.DETR.HIDDEN_DIM is {detr.HIDDEN_DIM}, NUM_HEADS {detr.NUM_HEADS}: it must "
                f"be a multiple of {what}."
            )
    if not 0 <= detr.DROPOUT < 1:
        raise InputError(
            f"MODEL.DETR.DROPOUT is {detr.DROPOUT}: it must be at least 0 and below 1."
        )
    weights = ("CLS_WEIGHT", "L1_WEIGHT", "GIOU_WEIGHT")
    costs = ("CLS_COST", "L1_COST", "GIOU_COST")
    for key in ("NO_OBJECT_WEIGHT", *costs, *weights):
        if not 0 <= detr[key] < math.inf:
            raise InputError(f"MODEL.DETR.{key} is {detr[key]}: it must be at least 0, and finite.")
    if not any(detr[key] for key in costs):
        raise InputError(
            f"MODEL.DETR.{', '.join(costs)} are all 0: nothing would say which query is matched "
            "with which instance, the paper's are 1.0, 5.0 and 2.0."
        )
    for key, head in (("MASK_ON", "mask"), ("KEYPOINT_ON", "keypoint")):
        if cfg.MODEL[key]:
            raise InputError(f"MODEL.{key} is True, but DETR has no {head} head: set it to False.")
