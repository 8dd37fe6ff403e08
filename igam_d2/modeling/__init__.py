from .box_predictor import CosineLinear, CosineOutputLayers
from .build_loss import build_cls_loss
from .calibration import norcal, tau_normalized
from .roi_heads import IGAMCascadeROIHeads, IGAMROIHeads

__all__ = [
    "CosineLinear",
    "CosineOutputLayers",
    "IGAMCascadeROIHeads",
    "IGAMROIHeads",
    "build_cls_loss",
    "norcal",
    "tau_normalized",
]
