"""Box predictor with an embedding, a classifier that the loss chooses, and information amounts.

Shape legend:
    R: RoIs of the batch    G: ground-truth instances of the batch
    K: foreground classes, the background is class K    D: embedding dimension
"""

import math

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor, nn

from ..losses import ClsLoss
from .build_loss import build_cls_loss, norcal_counts
from .calibration import norcal, tau_normalized

__all__ = ["CosineLinear", "CosineOutputLayers"]


class CosineLinear(nn.Module):
    """Cosines between inputs and one weight vector per class, in float32 also under autocast."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, out_features) in [-1, 1]; a zero vector has cosine 0 with every class."""
        with torch.autocast(x.device.type, enabled=False):
            # normalize's eps is far below what float16 could hold
            cosine = F.linear(F.normalize(x.float()), F.normalize(self.weight.float()))
        return cosine.clamp(-1, 1)


class CosineOutputLayers(FastRCNNOutputLayers):
    """Fast R-CNN outputs whose classification is a :class:`ClsLoss` over an embedding of the RoI.

    In training it keeps the embedding of each ground-truth instance of the step, detached, for
    :class:`igam_d2.engine.InformationAmountHook`: that of the RoI which overlaps the instance most.

    Buffers:
        information: (K,) bits, NaN for a class not measured yet.
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
            cls_loss: the classification loss; it chooses the classifier.
            embedding_dim: D, dimension of the linear projection of the box features that is
                classified; 0 to classify the box features themselves.
            norcal_gamma, class_image_count: of :func:`norcal`, which calibrates the probabilities
                at test time; 0 for no calibration.
            tau: of :func:`tau_normalized`, at test time; 0 for none.
            input_shape, num_classes, kwargs: as for :class:`FastRCNNOutputLayers`.
        """
        super().__init__(input_shape, num_classes=num_classes, **kwargs)
        in_features = self.bbox_pred.in_features
        self.embedding_dim = embedding_dim or in_features
        if embedding_dim:
            self.embedding = nn.Linear(in_features, embedding_dim)
            weight_init.c2_xavier_fill(self.embedding)
        else:
            self.embedding = nn.Identity()
        self.cls_loss = cls_loss
        if cls_loss.classifier == "cosine":
            self.cls_score = CosineLinear(self.embedding_dim, cls_loss.num_outputs)
        else:
            self.cls_score = nn.Linear(self.embedding_dim, cls_loss.num_outputs, bias=cls_loss.bias)
            nn.init.normal_(self.cls_score.weight, std=0.01)
            if cls_loss.bias:
                prior = 0.5 if cls_loss.prior_prob is None else cls_loss.prior_prob
                nn.init.constant_(self.cls_score.bias, math.log(prior / (1 - prior)))
        self.register_buffer("information", torch.full((num_classes,), math.nan))
        self.norcal_gamma, self.tau = norcal_gamma, tau
        # Of this training set, whatever set a checkpoint comes from
        self.register_buffer("class_image_count", class_image_count, persistent=False)
        self._matched: tuple[Tensor, Tensor] | None = None
        self._instances: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        in_features = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        ret["embedding_dim"] = cfg.MODEL.IGAM.EMBEDDING_DIM
        ret["cls_loss"] = build_cls_loss(cfg, ret["embedding_dim"] or in_features)
        ret["tau"] = cfg.TEST.CALIBRATION.TAU
        if gamma := cfg.TEST.CALIBRATION.NORCAL_GAMMA:
            ret |= {"norcal_gamma": gamma, "class_image_count": norcal_counts(cfg)}
        return ret

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

    def take_instances(self) -> tuple[Tensor, Tensor] | None:
        """The last step's embeddings (G, D) and classes (G,), once; None if it had no instance."""
        instances, self._instances = self._instances, None
        return instances

    @torch.no_grad()
    def set_information(self, information: Tensor) -> None:
        """Takes over information amounts (K,) in bits, and hands them to the loss."""
        self.information.copy_(information)
        self.cls_loss.set_information(self.information)

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
                probs = self.cls_loss.predict_probs(scores, embeddings=embeddings)
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
        with torch.autocast(scores.device.type, enabled=False):
            if self.tau:
                weight, bias = self.cls_score.weight, self.cls_score.bias
                scores = tau_normalized(
                    scores, weight, bias, num_classes=self.num_classes, tau=self.tau
                )
            probs = self.cls_loss.predict_probs(scores, embeddings=embeddings)
            if self.norcal_gamma:
                probs = norcal(probs, self.class_image_count, self.norcal_gamma)
        return probs.split([len(p) for p in proposals])

    def predict_boxes(self, predictions, proposals):
        return super().predict_boxes(predictions[:2], proposals)

    def predict_boxes_for_gt_classes(self, predictions, proposals):
        return super().predict_boxes_for_gt_classes(predictions[:2], proposals)
