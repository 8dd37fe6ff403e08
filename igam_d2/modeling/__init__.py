from .box_predictor import CosineLinear, CosineOutputLayers
from .roi_heads import IGAMROIHeads

__all__ = ["CosineLinear", "CosineOutputLayers", "IGAMROIHeads"]
