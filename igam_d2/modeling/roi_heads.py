"""RoI heads with a :class:`CosineOutputLayers` as box predictor."""

from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads

from .box_predictor import CosineOutputLayers

__all__ = ["IGAMROIHeads"]


@ROI_HEADS_REGISTRY.register()
class IGAMROIHeads(StandardROIHeads):
    """Box head, and mask head where the config turns it on, of Faster and Mask R-CNN."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictor"] = CosineOutputLayers(cfg, ret["box_head"].output_shape)
        return ret

    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        self.box_predictor.match_instances(sampled, targets)
        return sampled
