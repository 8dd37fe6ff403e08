from .swin import SwinTransformer, build_swin_backbone, build_swin_fpn_backbone

__all__ = ["SwinTransformer", "build_swin_backbone", "build_swin_fpn_backbone"]
