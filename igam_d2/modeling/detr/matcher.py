"""Which query is matched with which instance (Carion et al. 2020, section 3.1, eqs. (1) and (2)).

Shape legend:
    L: decoder layers    N: images    Q: object queries of an image    K: foreground classes
    G_i: instances of image i    G: those of all images    M: matched pairs of all layers
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils.logger import log_first_n
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

__all__ = ["HungarianMatcher", "Matches", "Targets"]

# In place of a cost that is no number: above every other, so that the pair is avoided
LARGE = 1e6


@dataclass(frozen=True)
class Targets:
    """Ground truth of all images, in their order.

    Attributes:
        boxes: (G, 4), centre, width and height over the size of the image, which has no padding.
        classes: (G,) in [0, K).
        counts: G_i, N numbers.
        host_classes: `classes` on the host, where they come from.
    """

    boxes: Tensor
    classes: Tensor
    counts: list[int]
    host_classes: np.ndarray

    @classmethod
    def of(cls, instances: Sequence[Instances], device: torch.device) -> "Targets":
        """Of each image's `gt_boxes` and `gt_classes`, as they come from the mapper; two copies to
        the device in all."""
        boxes = []
        for truth in instances:
            height, width = truth.image_size
            size = truth.gt_boxes.tensor.new_tensor([width, height, width, height])
            boxes.append(truth.gt_boxes.tensor / size)
        classes = torch.cat([truth.gt_classes for truth in instances])
        return cls(
            box_convert(torch.cat(boxes), "xyxy", "cxcywh").to(device, non_blocking=True),
            classes.to(device, non_blocking=True),
            [len(truth) for truth in instances],
            classes.cpu().numpy(),
        )


@dataclass(frozen=True)
class Matches:
    """The matched pairs of all layers and images, on the host, and what was predicted.

    Attributes:
        rows: (M,) int64, of the queries in (L, N, Q), flattened: layer after layer, image after
            image, in the order of the instances. Every layer has as many.
        instances: (M,) int64 in [0, G), theirs.
        predicted: the last layer's most probable class of each query, (N Q,) in [0, K].
    """

    rows: np.ndarray
    instances: np.ndarray
    predicted: np.ndarray

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows and instances (M,) on the device, in one copy."""
        pairs = torch.from_numpy(np.stack([self.rows, self.instances]))
        return pairs.to(device, non_blocking=True).unbind()


class HungarianMatcher:
    """The assignment of least cost, -p(class) + L1 distance - GIoU, each with its weight."""

    def __init__(self, *, cls_cost: float, l1_cost: float, giou_cost: float):
        self.cls_cost, self.l1_cost, self.giou_cost = cls_cost, l1_cost, giou_cost

    @torch.no_grad()
    def costs(self, probs: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """The costs (L, Q, G_i) of each image, flattened one behind the other, on the device.

        Args:
            probs: (L, N, Q, K + 1)
            boxes: (L, N, Q, 4), as those of the targets.
            targets: the ground truth.
        """
        costs = []
        parts = zip(
            *(probs.unbind(1), boxes.unbind(1)),
            *(targets.boxes.split(targets.counts), targets.classes.split(targets.counts)),
            strict=True,
        )
        for p, box, gt_boxes, gt_classes in parts:
            box, gt_boxes = box.flatten(0, 1), gt_boxes.to(box.dtype)
            corners, gt_corners = (box_convert(b, "cxcywh", "xyxy") for b in (box, gt_boxes))
            cost = (
                -self.cls_cost * p.flatten(0, 1)[:, gt_classes]
                + self.l1_cost * torch.cdist(box, gt_boxes, p=1)
                - self.giou_cost * generalized_box_iou(corners, gt_corners)
            )
            costs.append(cost.flatten())
        return torch.cat(costs)

    def assign(
        self, costs: np.ndarray, counts: list[int], num_layers: int, num_queries: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of all layers and images, on the host.

        Of an image with more instances than queries, those that fit best have one each. A cost that
        is NaN or infinite is a very large one: where a single box is degenerate, its query is
        avoided; where a model has diverged, so has the loss, at which Detectron2's trainer stops.

        Args:
            costs: of :meth:`costs`.
            counts: G_i.
            num_layers, num_queries: L and Q.

        Returns:
            `rows` and `instances` of :class:`Matches`.
        """
        finite = np.isfinite(costs)
        if not finite.all():
            costs = np.where(finite, costs, LARGE)
            _warn_once(
                "Matching costs were NaN or infinite, as when a model diverges; a smaller "
                "SOLVER.BASE_LR or gradient clipping is the usual cure."
            )
        if max(counts) > num_queries:
            _warn_once(
                f"Images have more than {num_queries} instances, which is MODEL.DETR.NUM_QUERIES: "
                "those that fit worst have no query, and are not learned from."
            )
        starts = np.cumsum([0, *counts])
        matrices = [
            part.reshape(num_layers, num_queries, count)
            for part, count in zip(
                np.split(costs, starts[1:-1] * num_layers * num_queries), counts, strict=True
            )
        ]
        rows, instances = [], []
        for layer in range(num_layers):
            for image, matrix in enumerate(matrices):
                instance, query = linear_sum_assignment(matrix[layer].T)
                rows.append((layer * len(counts) + image) * num_queries + query)
                instances.append(starts[image] + instance)
        return np.concatenate(rows), np.concatenate(instances)

    @torch.no_grad()
    def match(self, probs: Tensor, boxes: Tensor, targets: Targets) -> Matches:
        """Costs and assignment, with a single copy from the device; arguments as for the costs."""
        num_layers, _, num_queries, _ = boxes.shape
        costs = self.costs(probs, boxes, targets)
        predicted = probs[-1].argmax(dim=-1).flatten()
        flat = _on_host(torch.cat([costs, predicted.to(costs.dtype)]))
        host_costs, classes = np.split(flat, [len(costs)])
        pairs = self.assign(host_costs, targets.counts, num_layers, num_queries)
        return Matches(*pairs, classes.astype(np.int64))


def _on_host(tensor: Tensor) -> np.ndarray:
    """Waits for the device."""
    return tensor.cpu().numpy()


def _warn_once(message: str) -> None:
    log_first_n(logging.WARNING, message, name=__name__, key="message")
