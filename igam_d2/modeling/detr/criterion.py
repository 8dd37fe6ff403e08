"""The set prediction loss (Carion et al. 2020, section 3.1 and appendix A.2), with a
:class:`igam_d2.losses.ClsLoss` over the queries in place of its cross-entropy.

Shape legend:
    L: decoder layers    N: images    Q: object queries of an image    R: rows, L N Q
    K: foreground classes, "no object" is class K    C: outputs of the classifier
    D: embedding dimension    G: instances of all images    M: matched pairs of all layers
"""

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torchvision.ops import box_convert

from ...losses.reduction import at_least_float32, sum_over_processes_
from ..classifier import EmbeddingClassifier
from .matcher import HungarianMatcher, Matches, Targets

__all__ = ["SetCriterion"]


class SetCriterion:
    """Classification of all queries, and L1 and GIoU losses of the matched ones' boxes, summed over
    the decoder layers.

    Each layer is matched for itself. The costs of all layers and images go to the host in a single
    copy, the one place where the loss waits for the device.

    The classification loss is called once, with the rows of all layers, and multiplied by L. That
    is the sum of the layers' losses where a loss is a mean with the rows' weights, whose sum is the
    same in all layers, or a sum over the number of foreground rows. A loss with state then changes
    it once a step, and one that draws rows at random draws them from all layers.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        *,
        no_object_weight: float,
        cls_weight: float,
        l1_weight: float,
        giou_weight: float,
    ):
        """
        Args:
            matcher: of queries and instances.
            no_object_weight: of a query without an instance in the classification loss, where one
                with an instance weighs 1.
            cls_weight, l1_weight, giou_weight: of the three losses.
        """
        self.matcher, self.no_object_weight = matcher, no_object_weight
        self.cls_weight, self.l1_weight, self.giou_weight = cls_weight, l1_weight, giou_weight

    def __call__(
        self,
        classifier: EmbeddingClassifier,
        scores: Tensor,
        embeddings: Tensor,
        boxes: Tensor,
        targets: Targets,
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None]:
        """
        Args:
            classifier: what made the scores.
            scores, embeddings: (R, C) and (R, D).
            boxes: (L, N, Q, 4), centre, width and height in [0, 1].
            targets: the ground truth.

        Returns:
            `loss_cls`, `loss_bbox` (L1) and `loss_giou`, weighted; and the embeddings of the last
            layer's matched queries, detached, with their classes; None if there is no instance.
        """
        with torch.autocast(scores.device.type, enabled=False):
            boxes, num_layers = at_least_float32(boxes), len(boxes)
            matches = self.match(classifier, scores, embeddings, boxes, targets)
            _log_accuracy(matches, targets, num_layers, classifier.num_classes)
            rows, instances = matches.to(boxes.device)
            classes = targets.classes[instances]
            loss_cls = self._classification(
                classifier, scores, embeddings, rows, classes, num_layers
            )
            l1, giou = self._boxes(boxes.flatten(0, 2)[rows], targets, instances)
        losses = {
            "loss_cls": self.cls_weight * loss_cls,
            "loss_bbox": self.l1_weight * l1,
            "loss_giou": self.giou_weight * giou,
        }
        last = len(rows) // num_layers  # every layer has as many pairs
        return losses, (embeddings.detach()[rows[-last:]], classes[-last:]) if last else None

    @torch.no_grad()
    def match(
        self,
        classifier: EmbeddingClassifier,
        scores: Tensor,
        embeddings: Tensor,
        boxes: Tensor,
        targets: Targets,
    ) -> Matches:
        """Matches by probabilities of at least float32, also under autocast; arguments as above."""
        with torch.autocast(scores.device.type, enabled=False):
            probs = classifier.cls_loss.predict_probs(
                at_least_float32(scores), embeddings=embeddings
            )
            return self.matcher.match(probs.view(*boxes.shape[:3], -1), boxes, targets)

    def _classification(
        self,
        classifier: EmbeddingClassifier,
        scores: Tensor,
        embeddings: Tensor,
        rows: Tensor,
        classes: Tensor,
        num_layers: int,
    ) -> Tensor:
        gt_classes = classes.new_full((len(scores),), classifier.num_classes)
        gt_classes[rows] = classes
        dtype = torch.promote_types(scores.dtype, torch.float32)
        weight = scores.new_full((len(scores),), self.no_object_weight, dtype=dtype)
        weight[rows] = 1.0
        if not len(rows):
            # A sum over the number of foreground rows is over 1 without any, once for all layers
            weight = weight / num_layers
        parts = classifier.cls_loss(
            scores,
            gt_classes,
            embeddings=embeddings,
            class_weight=classifier.cls_score.weight,
            sample_weight=weight,
        )
        return sum(parts.values()) * num_layers

    def _boxes(self, boxes: Tensor, targets: Targets, instances: Tensor) -> tuple[Tensor, Tensor]:
        """L1 and GIoU losses of matched boxes (M, 4) over the number of instances, a mean over
        processes, so that their gradients are those of the batch of all processes."""
        num_instances = boxes.new_full((1,), sum(targets.counts))
        sum_over_processes_(num_instances)
        divisor = (num_instances / comm.get_world_size()).clamp(min=1).squeeze(0)
        truth = targets.boxes[instances].to(boxes.dtype)
        l1 = (boxes - truth).abs().sum()
        giou = _giou(*(box_convert(b, "cxcywh", "xyxy") for b in (boxes, truth)))
        return l1 / divisor, (1 - giou).sum() / divisor


def _giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU of pairs, (M, 4), (M, 4) -> (M,), corners in [0, 1].

    torchvision has it for all pairs, or as a loss that waits for the device.
    """
    x0, y0, x1, y1 = boxes.unbind(1)
    u0, v0, u1, v1 = others.unbind(1)
    width, height = torch.min(x1, u1) - torch.max(x0, u0), torch.min(y1, v1) - torch.max(y0, v0)
    inner = width.clamp(min=0) * height.clamp(min=0)
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - inner
    hull = (torch.max(x1, u1) - torch.min(x0, u0)) * (torch.max(y1, v1) - torch.min(y0, v0))
    # A pair without any area would have 0 / 0
    union, hull = union.clamp(min=1e-12), hull.clamp(min=1e-12)
    return inner / union - (hull - union) / hull


def _log_accuracy(matches: Matches, targets: Targets, num_layers: int, num_classes: int) -> None:
    """What Detectron2 logs of RoIs, of the last layer's queries."""
    predicted, pairs = matches.predicted, len(matches.rows) // num_layers
    last = slice(len(matches.rows) - pairs, None)
    queries = matches.rows[last] - (num_layers - 1) * len(predicted)
    classes = targets.host_classes[matches.instances[last]]
    labels = np.full(len(predicted), num_classes)
    labels[queries] = classes
    storage = get_event_storage()
    storage.put_scalar("detr/cls_accuracy", (predicted == labels).mean())
    if pairs:
        found = predicted[queries]
        storage.put_scalar("detr/fg_cls_accuracy", (found == classes).mean())
        storage.put_scalar("detr/false_negative", (found == num_classes).mean())
