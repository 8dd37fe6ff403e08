from .backbone import build_swin_backbone, build_swin_fpn_backbone
from .box_predictor import CosineOutputLayers
from .build_loss import build_cls_loss
from .calibration import norcal, tau_normalized
from .classifier import CosineLinear, EmbeddingClassifier
from .detr import DETR
from .roi_heads import IGAMCascadeROIHeads, IGAMROIHeads

__all__ = [
    "DETR",
    "CosineLinear",
    "CosineOutputLayers",
    "EmbeddingClassifier",
    "IGAMCascadeROIHeads",
    "IGAMROIHeads",
    "build_cls_loss",
    "build_swin_backbone",
    "build_swin_fpn_backbone",
    "norcal",
    "tau_normalized",
]
