"""RoI heads with a :class:`CosineOutputLayers` as box predictor, or one for every stage."""

from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import CascadeROIHeads

from .box_predictor import CosineOutputLayers

__all__ = ["IGAMCascadeROIHeads", "IGAMROIHeads"]


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


@ROI_HEADS_REGISTRY.register()
class IGAMCascadeROIHeads(CascadeROIHeads):
    """Cascade R-CNN's heads; each stage has a classifier, loss and information amounts of its own,
    from the RoIs that the stage before has refined."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        weights = cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
        ret["box_predictors"] = [
            CosineOutputLayers(cfg, head.output_shape, box2box_transform=Box2BoxTransform(stage))
            for head, stage in zip(ret["box_heads"], weights, strict=True)
        ]
        return ret

    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        self.box_predictor[0].match_instances(sampled, targets)
        return sampled

    def _match_and_label_boxes(self, proposals, stage, targets):
        labelled = super()._match_and_label_boxes(proposals, stage, targets)
        self.box_predictor[stage].match_instances(labelled, targets)
        return labelled
