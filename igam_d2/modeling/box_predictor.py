"""Box predictor of RoI heads with an embedding, a classifier that the loss chooses, and information
amounts.

Shape legend:
    R: RoIs of the batch    G: ground-truth instances of the batch
    K: foreground classes, the background is class K    D: embedding dimension
"""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor

from ..losses import ClsLoss
from ..losses.reduction import at_least_float32
from .classifier import EmbeddingClassifier

__all__ = ["CosineOutputLayers"]


class CosineOutputLayers(FastRCNNOutputLayers, EmbeddingClassifier):
    """Fast R-CNN outputs whose classification is a :class:`ClsLoss` over an embedding of the RoI.

    The embedding of an instance is that of the RoI which overlaps it most.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        cls_loss: ClsLoss,
        embedding_dim: int,
        norcal_gamma: float = 0.0,
        class_image_count: Tensor | None = None,
        tau: float = 0.0,
        **kwargs,
    ):
        """
        Args:
            cls_loss, embedding_dim, norcal_gamma, class_image_count, tau: as for
                :class:`EmbeddingClassifier`, of the box features.
            input_shape, num_classes, kwargs: as for :class:`FastRCNNOutputLayers`.
        """
        super().__init__(input_shape, num_classes=num_classes, **kwargs)
        self._init_classifier(
            self.bbox_pred.in_features,
            num_classes=num_classes,
            cls_loss=cls_loss,
            embedding_dim=embedding_dim,
            norcal_gamma=norcal_gamma,
            class_image_count=class_image_count,
            tau=tau,
        )
        self._matched: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_config(cls, cfg, input_shape):
        in_features = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        ret = super().from_config(cfg, input_shape)
        return ret | cls._classifier_config(cfg, in_features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, ...) box features -> scores (R, num_outputs), deltas (R, 4K or 4), embeddings."""
        x = x.flatten(start_dim=1)
        embeddings = self.embedding(x)
        return self.cls_score(embeddings), self.bbox_pred(x), embeddings

    @torch.no_grad()
    def match_instances(self, proposals: list[Instances], targets: list[Instances]) -> None:
        """Notes the RoI of each ground-truth instance for the :meth:`losses` of this step.

        One RoI per instance, the one that overlaps it most; an instance whose best RoI covers less
        than half of it (its own box was not sampled) gets the class K, which the statistics pass
        over. Their number is known on the host: nothing here synchronises with the device.

        Args:
            proposals: the sampled RoIs of each image, in the order of the features to come.
            targets: the images' ground truth, with `gt_boxes` and `gt_classes`.
        """
        index, classes, start = [], [], 0
        for sampled, truth in zip(proposals, targets, strict=True):
            if len(sampled) and len(truth):
                overlap, best = pairwise_iou(truth.gt_boxes, sampled.proposal_boxes).max(dim=1)
                index.append(best + start)
                classes.append(truth.gt_classes.where(overlap >= 0.5, self.num_classes))
            start += len(sampled)
        self._matched = (cat(index), cat(classes)) if index else None

    def losses(self, predictions, proposals: list[Instances]) -> dict[str, Tensor]:
        """`loss_cls` and `loss_box_reg`; arguments as in :class:`FastRCNNOutputLayers`."""
        scores, deltas, embeddings = predictions
        gt_classes = cat([p.gt_classes for p in proposals])
        matched, self._matched, self._instances = self._matched, None, None
        if matched is not None:
            index, classes = matched
            self._instances = embeddings.detach()[index], classes

        # float32 sums also under autocast
        with torch.autocast(scores.device.type, enabled=False):
            with torch.no_grad():
                probs = self.cls_loss.predict_probs(at_least_float32(scores), embeddings=embeddings)
            parts = self.cls_loss(
                scores, gt_classes, embeddings=embeddings, class_weight=self.cls_score.weight
            )
        # Detectron2 logs its statistics from these, the last column being the background, and adds
        # a cross-entropy that is replaced below.
        losses = super().losses((probs, deltas), proposals)
        losses["loss_cls"] = sum(parts.values()) * self.loss_weight.get("loss_cls", 1.0)
        return losses

    def predict_probs(self, predictions, proposals: list[Instances]) -> tuple[Tensor, ...]:
        """Probabilities of the RoIs, calibrated, a tensor (R_i, K + 1) for each image."""
        scores, _, embeddings = predictions
        probs = self.calibrated_probs(scores, embeddings)
        return probs.split([len(p) for p in proposals])

    def predict_boxes(self, predictions, proposals):
        return super().predict_boxes(predictions[:2], proposals)

    def predict_boxes_for_gt_classes(self, predictions, proposals):
        return super().predict_boxes_for_gt_classes(predictions[:2], proposals)
