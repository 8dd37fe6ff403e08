"""Moments of a trained detector's embeddings, from one pass over the ground truth of a data set.

Shape legend:
    N: images of a batch    G: their ground-truth instances    K: classes
    W: width of a classification layer's input    D: the dimension that it is measured in
"""

import math
import time
from collections.abc import Callable, Iterable
from datetime import timedelta

import torch
from detectron2.evaluation import inference_context
from detectron2.layers import cat
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, RROIHeads
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor, nn

from ..errors import InputError
from ..modeling import DETR
from ..moments import ClassMoments, EmbeddingQueue

__all__ = ["DetectorMoments", "GroundTruthEmbeddings", "random_projection"]

SECONDS_BETWEEN_REPORTS = 5.0


class _AllSeenError(Exception):
    """Every classification layer got its input, and nothing that follows is needed."""


class GroundTruthEmbeddings:
    """The inputs of a detector's classification layers for ground-truth boxes, in eval mode.

    Of RoI heads (any that classify with :class:`FastRCNNOutputLayers`: Faster, Mask and Cascade
    R-CNN, with FPN or C4) it is the input of each predictor's `cls_score` for the RoI that is the
    instance's own box, or in the later stages of a cascade what the stages before have made of it.
    Of RetinaNet it is the input of `cls_score` at the place of the anchor that overlaps the
    instance most, the middle of the 3 x 3 places that `cls_score` sees. Of :class:`DETR` it is the
    input of `cls_score` of the query that the matching after the last layer gives the instance;
    instances beyond the number of queries have none, and are left out.

    Attributes:
        widths: W of each predictor, by the name that its module has in the model; for RetinaNet of
            "head", for DETR of "classifier".
        num_classes: K.
    """

    def __init__(self, model: nn.Module):
        """
        Raises:
            InputError: a model of another kind.
        """
        self._model = model
        self._predictors: dict[str, FastRCNNOutputLayers] = {}
        if isinstance(model, GeneralizedRCNN) and not isinstance(model.roi_heads, RROIHeads):
            self._predictors = {
                name: module
                for name, module in model.named_modules()
                if isinstance(module, FastRCNNOutputLayers)
            }
        if self._predictors:
            self.num_classes = model.roi_heads.num_classes
            self.widths = {
                name: predictor.cls_score.weight.shape[1]
                for name, predictor in self._predictors.items()
            }
        elif isinstance(model, RetinaNet) and isinstance(model.head, RetinaNetHead):
            self.num_classes = model.num_classes
            self.widths = {"head": model.head.cls_score.in_channels}
        elif isinstance(model, DETR):
            self.num_classes = model.classifier.num_classes
            self.widths = {"classifier": model.classifier.embedding_dim}
        else:
            kind = type(model).__name__
            if hasattr(model, "roi_heads"):
                kind += f" with {type(model.roi_heads).__name__}"
            raise InputError(
                f"The embeddings of {kind} cannot be measured: the model must be RetinaNet, or "
                "DETR, or GeneralizedRCNN with RoI heads that classify upright boxes with "
                "FastRCNNOutputLayers."
            )

    @torch.no_grad()
    def __call__(self, batch: list[dict]) -> tuple[dict[str, Tensor], Tensor]:
        """Embeddings (G, W) of each predictor, and classes (G,), row i being instance i of those
        that have one.

        Args:
            batch: mapped records with `image` and `instances` (`gt_boxes`, `gt_classes`), of which
                at least one is there.
        """
        model = self._model
        if isinstance(model, DETR):
            embeddings, classes = model.matched_embeddings(batch)
            return {"classifier": embeddings}, classes
        targets = [record["instances"].to(model.device) for record in batch]
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        classes = cat([target.gt_classes for target in targets])
        if not self._predictors:
            return {"head": self._at_anchors(features, targets)}, classes
        embeddings = self._of_rois(images, features, targets)
        for name in self._predictors:
            if name not in embeddings or len(embeddings[name]) != len(classes):
                raise InputError(
                    f"{type(model.roi_heads).__name__} does not classify every box that it is "
                    f"given with {name}: which embedding is whose is not known."
                )
        return embeddings, classes

    def _of_rois(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        proposals = [
            Instances(
                target.image_size,
                proposal_boxes=target.gt_boxes,
                objectness_logits=target.gt_boxes.tensor.new_zeros(len(target)),
            )
            for target in targets
        ]
        seen: dict[str, Tensor] = {}

        def keep(name: str):
            def hook(_, inputs):
                seen[name] = inputs[0]
                if len(seen) == len(self._predictors):  # no NMS, no masks, no keypoints
                    raise _AllSeenError

            return hook

        handles = [
            predictor.cls_score.register_forward_pre_hook(keep(name))
            for name, predictor in self._predictors.items()
        ]
        try:
            self._model.roi_heads(images, features, proposals)
        except _AllSeenError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def _at_anchors(self, features: dict[str, Tensor], targets: list[Instances]) -> Tensor:
        model = self._model
        levels = [features[name] for name in model.head_in_features]
        anchors = model.anchor_generator(levels)
        maps = [model.head.cls_subnet(level).flatten(2) for level in levels]  # (N, W, places)
        places, start = [], 0
        for boxes, x in zip(anchors, maps, strict=True):
            # The anchors of a place follow one another
            place = torch.arange(start, start + x.shape[2], device=x.device)
            places.append(place.repeat_interleave(len(boxes) // x.shape[2]))
            start += x.shape[2]
        places, anchors, maps = cat(places), Boxes.cat(anchors), cat(maps, dim=2)
        rows = [
            x[:, places[pairwise_iou(target.gt_boxes, anchors).argmax(dim=1)]].T
            for x, target in zip(maps, targets, strict=True)
        ]
        return cat(rows)


def random_projection(width: int, dim: int, *, seed: int = 0) -> Tensor:
    """(W, D) with orthonormal columns times sqrt(W / D), the same for the same seed.

    Squared lengths are kept on average over seeds (Johnson and Lindenstrauss 1984, lemma 1). An
    information amount is not: amounts are comparable at one D alone.
    """
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(width, dim, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q.mul(math.sqrt(width / dim)).float()


class DetectorMoments:
    """The :class:`ClassMoments` of a detector's embeddings, one for each of its predictors.

    Attributes:
        widths: W of each predictor.
        dims: D of each predictor.
        num_bytes: that moments and queues of all predictors take on the model's device.
    """

    def __init__(self, model: nn.Module, *, embedding_dim: int = 0, queue_length: int = 50000):
        """
        Args:
            model: a detector that :class:`GroundTruthEmbeddings` knows.
            embedding_dim: D, by :func:`random_projection`; 0 leaves embeddings as wide as they are.
            queue_length: embeddings gathered on the device before they enter the moments.

        Raises:
            InputError: another kind of model, a D that is wider than the embeddings.
        """
        self._model, self._queue_length = model, queue_length
        self._embeddings = GroundTruthEmbeddings(model)
        self.widths = self._embeddings.widths
        for name, width in self.widths.items():
            if not 0 <= embedding_dim <= width:
                raise InputError(
                    f"The embedding dimension is {embedding_dim}, but the embeddings of {name} "
                    f"have {width} numbers: it must be from 1 to {width}, or 0 for all of them."
                )
        self.dims = {name: embedding_dim or width for name, width in self.widths.items()}
        self.num_classes = self._embeddings.num_classes
        with torch.device("meta"):  # shapes without memory
            modules = [module for pair in self._empty().values() for module in pair]
        self.num_bytes = sum(b.numel() * b.element_size() for m in modules for b in m.buffers())

    def _empty(self) -> dict[str, tuple[EmbeddingQueue, ClassMoments]]:
        return {
            name: (EmbeddingQueue(self._queue_length, dim), ClassMoments(self.num_classes, dim))
            for name, dim in self.dims.items()
        }

    @torch.no_grad()
    def measure(
        self,
        loader: Iterable[list[dict]],
        num_images: int,
        *,
        report: Callable[[str], object] | None = None,
        observe: Callable[[str, Tensor, Tensor], object] | None = None,
    ) -> dict[str, ClassMoments]:
        """One pass, with the model in eval mode.

        Args:
            loader: batches of mapped records with `image` and `instances`.
            num_images: that it will give, for the estimate.
            report: is told, every few seconds, how far it is.
            observe: is given each batch's embeddings (n, D) and classes (n,), after the name of the
                predictor.
        """
        device = self._model.device
        with torch.device(device):
            state = self._empty()
        projections = {
            name: random_projection(width, self.dims[name]).to(device)
            for name, width in self.widths.items()
            if self.dims[name] < width
        }
        done, progress = 0, _Progress(num_images)
        with inference_context(self._model):
            for batch in loader:
                if sum(len(record["instances"]) for record in batch):
                    embeddings, classes = self._embeddings(batch)
                    for name, x in embeddings.items():
                        if name in projections:
                            x = x.float() @ projections[name]
                        if observe is not None:
                            observe(name, x, classes)
                        _enqueue(*state[name], x, classes)
                done += len(batch)
                if report is not None and (line := progress.line(done)):
                    report(line)
        for queue, moments in state.values():
            queue.flush_(moments)
        return {name: moments for name, (_, moments) in state.items()}


def _enqueue(queue: EmbeddingQueue, moments: ClassMoments, x: Tensor, classes: Tensor) -> None:
    while len(classes):
        taken = queue.enqueue(x, classes)
        x, classes = x[taken:], classes[taken:]
        if queue.is_full:
            queue.flush_(moments)


class _Progress:
    """A line every few seconds; the first batch, slow for many reasons, is no part of the rate."""

    def __init__(self, total: int):
        self._total = total
        self._start: tuple[float, int] | None = None
        self._last = 0.0

    def line(self, done: int) -> str | None:
        now = time.monotonic()
        if self._start is None:
            self._start, self._last = (now, done), now
            return None
        if now - self._last < SECONDS_BETWEEN_REPORTS:
            return None
        self._last = now
        rate = (done - self._start[1]) / max(now - self._start[0], 1e-9)
        left = timedelta(seconds=round((self._total - done) / rate))
        return f"{done:,} of {self._total:,} images, {rate:.1f} a second, {left} left"
