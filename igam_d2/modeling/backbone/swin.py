"""Swin transformers (Liu et al. 2021) as backbones that a YAML config can name."""

import warnings

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, swin
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...errors import InputError

__all__ = ["SwinTransformer", "build_swin_backbone", "build_swin_fpn_backbone"]


class SwinTransformer(swin.SwinTransformer):
    """Detectron2's Swin with stages that are handed on, and nothing behind the last of them.

    Frozen stages stay in evaluation mode while the rest trains, and activations that are computed
    again are so by the variant of `torch.utils.checkpoint` that frozen layers and several processes
    go with.

    Input: (N, 3, H, W) of any size. Output: a dict of stages, p0 of (N, C, H/4, W/4) to p3 of
    (N, 8C, H/32, W/32), sizes rounded up.
    """

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: list[int] = (2, 2, 6, 2),
        num_heads: list[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.2,
        out_features: list[str] = ("p0", "p1", "p2", "p3"),
        freeze_at: int = 0,
        use_checkpoint: bool = False,
        in_channels: int = 3,
    ):
        """
        Args:
            embed_dim: C, channels of the first stage; each stage has twice those of the last.
            depths, num_heads: blocks of each stage, and attention heads of these.
            window_size: side of the windows of attention, in patches.
            drop_path_rate: of the deepest block, growing linearly from 0.
            out_features: stages to hand on; each has a norm layer of its own.
            freeze_at: 0 for none, 1 for the patch embedding, n for the first n - 1 stages too.
            use_checkpoint: compute the blocks' activations again in the backward pass.

        Raises:
            InputError: drop path without timm, from which Detectron2 takes it.
        """
        stages = sorted(int(name.removeprefix("p")) for name in out_features)
        used = stages[-1] + 1
        try:
            with warnings.catch_warnings():  # of names and arguments in Detectron2's code
                warnings.filterwarnings("ignore", "Importing from timm.models.layers")
                warnings.filterwarnings("ignore", "torch.meshgrid")
                super().__init__(
                    in_chans=in_channels,
                    embed_dim=embed_dim,
                    depths=list(depths[:used]),
                    num_heads=list(num_heads[:used]),
                    window_size=window_size,
                    drop_path_rate=drop_path_rate,
                    out_indices=stages,
                    frozen_stages=freeze_at or -1,
                )
        except ImportError as error:
            raise InputError(
                f"MODEL.SWIN.DROP_PATH_RATE is {drop_path_rate}, for which Detectron2's Swin needs "
                f"timm ({error}): pip install 'igam_d2[swin]', or set it to 0.0."
            ) from error
        if use_checkpoint:
            for block in (block for layer in self.layers for block in layer.blocks):
                block.__class__ = _CheckpointedBlock  # which has no state of its own

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec, out_features: list[str]) -> dict:
        node = cfg.MODEL.SWIN
        return {
            "embed_dim": node.EMBED_DIM,
            "depths": node.DEPTHS,
            "num_heads": node.NUM_HEADS,
            "window_size": node.WINDOW_SIZE,
            "drop_path_rate": node.DROP_PATH_RATE,
            "use_checkpoint": node.USE_CHECKPOINT,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "in_channels": input_shape.channels,
            "out_features": out_features,
        }

    @property
    def size_divisibility(self) -> int:
        return 0  # stages pad what they need; Detectron2's property reads a name that is not set

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze_stages()
        return self


class _CheckpointedBlock(swin.SwinTransformerBlock):
    def forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x, mask_matrix)
        size = self.H, self.W  # of this image, whichever is the last before the backward pass

        def run(x: Tensor) -> Tensor:
            self.H, self.W = size
            return swin.SwinTransformerBlock.forward(self, x, mask_matrix)

        return checkpoint(run, x, use_reentrant=False)


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """MODEL.SWIN with its OUT_FEATURES, as for DETR."""
    return SwinTransformer(cfg, input_shape, cfg.MODEL.SWIN.OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """MODEL.SWIN under a feature pyramid over FPN.IN_FEATURES, p2 to p6 from p0 to p3."""
    fpn = cfg.MODEL.FPN
    return FPN(
        # A norm of a stage that the pyramid does not use would never have a gradient
        bottom_up=SwinTransformer(cfg, input_shape, fpn.IN_FEATURES),
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )
