"""Classification by an embedding, as RoI heads and DETR have it: a classifier that the loss
chooses, information amounts, and calibration at test time.

Shape legend:
    R: RoIs or queries of the batch    G: instances of the batch that have an embedding
    K: foreground classes, the background is class K    D: embedding dimension
"""

import math
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..losses import ClsLoss
from ..losses.reduction import at_least_float32
from .build_loss import build_cls_loss, norcal_counts
from .calibration import norcal, tau_normalized

__all__ = ["CosineLinear", "EmbeddingClassifier"]


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


class EmbeddingClassifier(nn.Module):
    """Base of what classifies embeddings with a :class:`ClsLoss`; has no constructor of its own.

    In training it keeps one embedding of each ground-truth instance of the step, detached, for
    :class:`igam_d2.engine.InformationAmountHook`. Which one, a subclass decides.

    Modules:
        embedding: what makes embeddings of inputs.
        cls_score: the classifier, scores (R, num_outputs) of embeddings (R, D).
        cls_loss: the classification loss.

    Buffers:
        information: (K,) bits, NaN for a class not measured yet.
    """

    def _init_classifier(
        self,
        in_features: int,
        *,
        num_classes: int,
        cls_loss: ClsLoss,
        embedding_dim: int,
        norcal_gamma: float = 0.0,
        class_image_count: Tensor | None = None,
        tau: float = 0.0,
    ) -> None:
        """To be called by a constructor.

        Args:
            in_features: width of what is classified.
            num_classes: K.
            cls_loss: the classification loss; it chooses the classifier.
            embedding_dim: D, dimension of the linear projection of the input that is classified; 0
                to classify the input itself.
            norcal_gamma, class_image_count: of :func:`norcal`, which calibrates the probabilities
                at test time; 0 for no calibration.
            tau: of :func:`tau_normalized`, at test time; 0 for none.
        """
        self.num_classes = num_classes
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
        self._instances: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def _classifier_config(cfg: CfgNode, in_features: int) -> dict[str, Any]:
        """The keyword arguments of :meth:`_init_classifier` that a config has."""
        dim, calibration = cfg.MODEL.IGAM.EMBEDDING_DIM, cfg.TEST.CALIBRATION
        ret = {
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "cls_loss": build_cls_loss(cfg, dim or in_features),
            "embedding_dim": dim,
            "tau": calibration.TAU,
        }
        if gamma := calibration.NORCAL_GAMMA:
            ret |= {"norcal_gamma": gamma, "class_image_count": norcal_counts(cfg)}
        return ret

    def take_instances(self) -> tuple[Tensor, Tensor] | None:
        """The last step's embeddings (G, D) and classes (G,), once; None if it had no instance."""
        instances, self._instances = self._instances, None
        return instances

    @torch.no_grad()
    def set_information(self, information: Tensor) -> None:
        """Takes over information amounts (K,) in bits, and hands them to the loss."""
        self.information.copy_(information)
        self.cls_loss.set_information(self.information)

    def calibrated_probs(self, scores: Tensor, embeddings: Tensor) -> Tensor:
        """(R, num_outputs), (R, D) -> (R, K + 1) test-time probabilities, in at least float32."""
        with torch.autocast(scores.device.type, enabled=False):
            scores = at_least_float32(scores)
            if self.tau:
                weight, bias = self.cls_score.weight, self.cls_score.bias
                scores = tau_normalized(
                    scores, weight, bias, num_classes=self.num_classes, tau=self.tau
                )
            probs = self.cls_loss.predict_probs(scores, embeddings=embeddings)
            if self.norcal_gamma:
                probs = norcal(probs, self.class_image_count, self.norcal_gamma)
        return probs
