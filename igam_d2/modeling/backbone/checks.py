"""Checks of what a config says of its backbone, before anything is built."""

from itertools import pairwise

from detectron2.config import CfgNode

from ...errors import InputError

__all__ = ["check_backbone"]

FPN = "build_swin_fpn_backbone"
# Of a pyramid, what to write for its backbone alone: name, key of the maps, the last map
WITHOUT_FPN = {
    FPN: ("build_swin_backbone", "MODEL.SWIN.OUT_FEATURES", "p3"),
    "build_resnet_fpn_backbone": ("build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", "res5"),
}


def check_backbone(cfg: CfgNode) -> None:
    """Checks MODEL.SWIN and the names of its feature maps, where it is the backbone, and that DETR
    has no pyramid of which it uses a part.

    Raises:
        InputError: the first value that is out of range, with what would be right.
    """
    if cfg.MODEL.BACKBONE.NAME in ("build_swin_backbone", FPN):
        _check_swin(cfg)
    _check_pyramid(cfg)


def _check_pyramid(cfg: CfgNode) -> None:
    """Of a pyramid of several levels, DETR's one map leaves layers of the others without use."""
    name, model = cfg.MODEL.BACKBONE.NAME, cfg.MODEL
    if model.META_ARCHITECTURE != "DETR" or name not in WITHOUT_FPN:
        return
    if len(model.FPN.IN_FEATURES) > 1 and not cfg.SOLVER.FIND_UNUSED_PARAMETERS:
        alone, key, last = WITHOUT_FPN[name]
        raise InputError(
            f"MODEL.BACKBONE.NAME is {name}, of which DETR uses {model.DETR.IN_FEATURE} alone: "
            "layers of its other maps would have no gradient, at which a training in several "
            f"processes stops; set it to {alone}, with {key} ['{last}'] and MODEL.DETR.IN_FEATURE "
            f"{last}, or set SOLVER.FIND_UNUSED_PARAMETERS to True."
        )


def _check_swin(cfg: CfgNode) -> None:
    name = cfg.MODEL.BACKBONE.NAME
    _check_sizes(cfg.MODEL.SWIN)
    swin, fpn = cfg.MODEL.SWIN, cfg.MODEL.FPN.IN_FEATURES
    stages = [f"p{i}" for i in range(len(swin.DEPTHS))]
    _check_features("MODEL.SWIN.OUT_FEATURES", swin.OUT_FEATURES, stages, "the stages are")
    if name == FPN:
        key = "MODEL.FPN.IN_FEATURES"
        _check_features(key, fpn, swin.OUT_FEATURES, "MODEL.SWIN.OUT_FEATURES is")
        if fpn[-1] != "p3" or any(int(b[1]) != int(a[1]) + 1 for a, b in pairwise(fpn)):
            raise InputError(
                f"{key} is {list(fpn)}: it must be neighbouring stages of Swin up to the last, as "
                "in ['p1', 'p2', 'p3'], from which the maps p3 to p6 are made."
            )
    maps = [f"p{int(p[1]) + 2}" for p in fpn] + ["p6"] if name == FPN else swin.OUT_FEATURES
    used = _used_features(cfg)
    for key, names in used.items():
        _check_features(key, names, maps, f"{name} has")
    unused = sorted(set(maps).difference(*used.values()))
    if used and unused and name != FPN:
        raise InputError(
            f"MODEL.SWIN.OUT_FEATURES has {', '.join(unused)}, which {' and '.join(used)} do not: "
            "leave out what is not used, it would have no gradient."
        )
    last = max(int(p[1]) for p in (fpn if name == FPN else swin.OUT_FEATURES))
    if not 0 <= cfg.MODEL.BACKBONE.FREEZE_AT <= last + 2:
        raise InputError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}: with Swin it must be "
            f"from 0, for nothing, 1, for the patch embedding, to {last + 2}, for all stages too."
        )


def _check_sizes(swin: CfgNode) -> None:
    for key in ("DEPTHS", "NUM_HEADS", "EMBED_DIM", "WINDOW_SIZE"):
        values = swin[key] if isinstance(swin[key], list | tuple) else [swin[key]]
        if not values or not all(isinstance(value, int) and value > 0 for value in values):
            raise InputError(f"MODEL.SWIN.{key} is {swin[key]}: it must be above 0, in integers.")
    if len(swin.DEPTHS) != len(swin.NUM_HEADS):
        raise InputError(
            f"MODEL.SWIN.DEPTHS has {len(swin.DEPTHS)} stages and NUM_HEADS {len(swin.NUM_HEADS)}: "
            "both must have one number for each stage."
        )
    for i, heads in enumerate(swin.NUM_HEADS):
        if (width := swin.EMBED_DIM * 2**i) % heads:
            raise InputError(
                f"MODEL.SWIN.NUM_HEADS is {swin.NUM_HEADS}: stage p{i} has {width} channels "
                f"(EMBED_DIM {swin.EMBED_DIM}, twice as many in each stage), which {heads} heads "
                "do not divide."
            )
    if not 0 <= swin.DROP_PATH_RATE < 1:
        raise InputError(
            f"MODEL.SWIN.DROP_PATH_RATE is {swin.DROP_PATH_RATE}: it must be at least 0 (0.0 for "
            "none) and below 1."
        )


def _check_features(key: str, names: list[str], known: list[str], whose: str) -> None:
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise InputError(
            f"{key} is {list(names)}, but {whose} {', '.join(known)}: it must be some of these."
        )


def _used_features(cfg: CfgNode) -> dict[str, list[str]]:
    """The keys by which a meta architecture that is known here names maps of the backbone."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE == "DETR":
        return {"MODEL.DETR.IN_FEATURE": [model.DETR.IN_FEATURE]}
    if model.META_ARCHITECTURE == "GeneralizedRCNN":
        return {
            "MODEL.RPN.IN_FEATURES": model.RPN.IN_FEATURES,
            "MODEL.ROI_HEADS.IN_FEATURES": model.ROI_HEADS.IN_FEATURES,
        }
    return {}
