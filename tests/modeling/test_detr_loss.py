"""The set prediction loss against a loop over layers, images and queries, and what must hold of it
whatever the classification loss is."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from test_no_synchronisation import NoSynchronisation
from tiny_detr import record, tiny_detr

from igam_d2.loss_config import make_cls_loss
from igam_d2.losses import CLS_LOSS_REGISTRY
from igam_d2.modeling.detr import matcher
from igam_d2.modeling.detr.criterion import SetCriterion
from igam_d2.modeling.detr.matcher import HungarianMatcher, Targets

LAYERS, QUERIES, K, D = 3, 4, 10, 8
LOSSES = [name for name, _ in CLS_LOSS_REGISTRY]
DRAWS = {"ACSLLoss", "BAGSLoss", "DropLoss"}  # rows or classes at random
WEIGHTS = {"cls_weight": 1.0, "l1_weight": 5.0, "giou_weight": 2.0, "no_object_weight": 0.1}


def criterion() -> SetCriterion:
    costs = {"cls_cost": 1.0, "l1_cost": 5.0, "giou_cost": 2.0}
    return SetCriterion(HungarianMatcher(**costs), **WEIGHTS)


def case(cfg, name: str, counts: list[int], dtype=torch.float64):
    """A stand-in for the classifier, and what a decoder may have made of the images."""
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = name
    g = torch.Generator().manual_seed(len(counts))
    loss = make_cls_loss(cfg, embedding_dim=D).to(dtype)
    loss.set_information(torch.linspace(5, 15, K))
    rows = LAYERS * len(counts) * QUERIES
    embeddings, weight = (
        torch.randn(n, D, generator=g, dtype=dtype) for n in (rows, loss.num_outputs)
    )
    scores = embeddings @ weight.T
    if loss.classifier == "cosine":
        scores = scores / embeddings.norm(dim=1, keepdim=True) / weight.norm(dim=1)
    classifier = SimpleNamespace(
        cls_loss=loss, num_classes=K, cls_score=SimpleNamespace(weight=weight)
    )
    boxes, truth = (
        torch.rand(*shape, 4, generator=g, dtype=dtype).mul(0.8).add(0.1)
        for shape in ((LAYERS, len(counts), QUERIES), (sum(counts),))
    )
    classes = torch.randint(K, (sum(counts),), generator=g)
    outputs = [scores.requires_grad_(), embeddings, boxes.requires_grad_()]
    return classifier, outputs, Targets(truth, classes, counts, classes.numpy())


def run(classifier, outputs, targets):
    with EventStorage() as storage:
        losses, instances = criterion()(classifier, *outputs, targets)
    return losses, instances, {name: value for name, (value, _) in storage.latest().items()}


def gradients(losses, outputs):
    return torch.autograd.grad(sum(losses.values()), [outputs[0], outputs[2]], retain_graph=True)


# --- against loops


def row_loss(loss, scores, y):
    """-log softmax of one row, after the margins of eq. (6)."""
    scale = getattr(loss, "scale", 1.0)
    logits = []
    for j, score in enumerate(scores):
        u = getattr(loss, "potentials", None)
        if u is not None and y < K and j < K and j != y:
            margin = max(0.0, (u[y] - u[j]).item())
            score = torch.cos((torch.acos(score) + margin).clamp(max=math.pi))
        logits.append(scale * score)
    return torch.stack(logits).logsumexp(0) - logits[y]


def box_losses(box, truth):
    l1 = sum((a - b).abs() for a, b in zip(box, truth, strict=True))
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (box, truth)
    )
    width, height = (
        torch.min(ax1, bx1) - torch.max(ax0, bx0),
        torch.min(ay1, by1) - torch.max(ay0, by0),
    )
    inner = width.clamp(min=0) * height.clamp(min=0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inner
    hull = (torch.max(ax1, bx1) - torch.min(ax0, bx0)) * (torch.max(ay1, by1) - torch.min(ay0, by0))
    return l1, 1 - (inner / union - (hull - union) / hull)


def by_hand(classifier, outputs, targets):
    loss, (scores, embeddings, boxes) = classifier.cls_loss, outputs
    shape = boxes.shape[:3]
    matches = criterion().match(classifier, scores, embeddings, boxes, targets)
    matched = dict(zip(matches.rows.tolist(), matches.instances.tolist(), strict=True))
    total = {"loss_cls": 0.0, "loss_bbox": 0.0, "loss_giou": 0.0}
    row = 0
    for layer in range(shape[0]):
        numerator, denominator = 0.0, 0.0
        for image in range(shape[1]):
            for query in range(shape[2]):
                g = matched.get(row)
                y = K if g is None else int(targets.classes[g])
                weight = 0.1 if g is None else 1.0
                numerator = numerator + weight * row_loss(loss, scores[row], y)
                denominator += weight
                if g is not None:
                    l1, giou = box_losses(boxes[layer, image, query], targets.boxes[g])
                    total["loss_bbox"] += 5 * l1 / sum(targets.counts)
                    total["loss_giou"] += 2 * giou / sum(targets.counts)
                row += 1
        total["loss_cls"] += numerator / denominator
    return total


@pytest.mark.parametrize("name", ["SoftmaxCELoss", "CosineCELoss", "IGAMLoss"])
def test_losses_and_gradients_are_those_of_the_loop(cfg, name):
    classifier, outputs, targets = case(cfg, name, [2, 0, 3])
    losses, (embeddings, classes), _ = run(classifier, outputs, targets)
    expected = by_hand(classifier, outputs, targets)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-9, atol=1e-9)
    for got, wanted in zip(gradients(losses, outputs), gradients(expected, outputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-9)
    assert embeddings.shape == (5, D) and classes.tolist() == targets.classes.tolist()


def test_without_margins_igam_is_cosine_ce(cfg):
    classifier, outputs, targets = case(cfg, "IGAMLoss", [2, 1])
    with_margins = run(classifier, outputs, targets)[0]["loss_cls"].item()
    classifier.cls_loss.potentials.fill_(math.nan)  # nothing measured yet
    cosine, _, _ = case(cfg, "CosineCELoss", [2, 1])
    losses = [run(c, outputs, targets)[0] for c in (classifier, cosine)]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(*(gradients(part, outputs) for part in losses))
    assert abs(with_margins - losses[0]["loss_cls"].item()) > 1e-3


# --- of all losses


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0]])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in DRAWS])
def test_one_call_is_the_sum_of_the_layers(cfg, name, counts):
    classifier, (scores, embeddings, boxes), targets = case(cfg, name, counts)
    classifier.cls_loss.eval()  # its state stays
    losses, _, _ = run(classifier, (scores, embeddings, boxes), targets)
    parts = zip(scores.chunk(LAYERS), embeddings.chunk(LAYERS), boxes.split(1), strict=True)
    layers = [run(classifier, part, targets)[0] for part in parts]
    for key, value in losses.items():
        torch.testing.assert_close(value, sum(layer[key] for layer in layers), msg=key)


@pytest.mark.parametrize("counts", [[2, 0, 6], [0, 0]])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_finite_and_changes_its_state_once(cfg, name, counts, monkeypatch):
    calls = []
    module = __import__(CLS_LOSS_REGISTRY.get(name).__module__, fromlist=["x"])
    if hasattr(module, "sum_over_processes_"):
        monkeypatch.setattr(module, "sum_over_processes_", lambda *_: calls.append(1))
    classifier, outputs, targets = case(cfg, name, counts, torch.float32)
    losses, instances, _ = run(classifier, outputs, targets)
    assert all(loss.isfinite() for loss in losses.values()) and len(calls) <= 1
    assert all(grad.isfinite().all() for grad in gradients(losses, outputs))
    assert (instances is None) == (sum(counts) == 0)
    if not sum(counts):
        assert losses["loss_bbox"] == losses["loss_giou"] == 0


def test_the_order_of_instances_does_not_matter(cfg):
    classifier, outputs, targets = case(cfg, "IGAMLoss", [3, 2])
    order = torch.tensor([2, 0, 1, 4, 3])
    classes = targets.classes[order]
    shuffled = Targets(targets.boxes[order], classes, targets.counts, classes.numpy())
    losses, (embeddings, classes), _ = run(classifier, outputs, targets)
    again, (other, other_classes), _ = run(classifier, outputs, shuffled)
    torch.testing.assert_close(losses, again)
    torch.testing.assert_close(embeddings[order], other)
    assert classes[order].tolist() == other_classes.tolist()


def test_autocast_changes_no_loss(cfg):
    classifier, outputs, targets = case(cfg, "SoftmaxCELoss", [2, 1], torch.float32)
    outputs[:2] = (x.detach().bfloat16().requires_grad_() for x in outputs[:2])
    losses = run(classifier, outputs, targets)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = run(classifier, outputs, targets)[0]
    torch.testing.assert_close(losses, again, rtol=0, atol=0)
    assert losses["loss_cls"].dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_matching_sees_no_half_precision(cfg, name):
    """Of two scores that float16 tells apart, softmax in float16 would make the same."""
    classifier, (scores, embeddings, boxes), targets = case(cfg, name, [2, 1], torch.float32)
    half, seen, one = scores.detach().half(), [], criterion()
    one.matcher.match = lambda probs, *_: seen.append(probs)
    for scores in (half, half.float()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one.match(classifier, scores, embeddings.half(), boxes, targets)
    torch.testing.assert_close(*seen, rtol=0, atol=0)


def test_accuracy_of_the_last_layer_is_logged(cfg):
    classifier, outputs, targets = case(cfg, "SoftmaxCELoss", [2, 1])
    with torch.no_grad():
        outputs[0][:, :K] -= 50  # all queries see nothing
    *_, logged = run(classifier, outputs, targets)
    expected = {"cls_accuracy": 5 / 8, "fg_cls_accuracy": 0, "false_negative": 1}
    assert logged == {f"detr/{key}": value for key, value in expected.items()}
    with torch.no_grad():
        outputs[0][-8:, targets.classes[2]] += 100  # or the third object, everywhere
    *_, logged = run(classifier, outputs, targets)
    found = (targets.classes == targets.classes[2]).sum().item()
    assert logged["detr/fg_cls_accuracy"] == pytest.approx(found / 3)
    assert logged["detr/cls_accuracy"] == pytest.approx(found / 8)
    assert logged["detr/false_negative"] == 0


# --- waiting for the device


@pytest.mark.parametrize("name", ["SoftmaxCELoss", "IGAMLoss"])
def test_nothing_but_the_matching_waits_for_the_device(cfg, name, monkeypatch):
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = name
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    model = build_model(tiny_detr(cfg)).train().to("meta")
    classes = torch.empty(3, dtype=torch.long, device="meta")
    targets = Targets(torch.empty(3, 4, device="meta"), classes, [2, 1], np.array([1, 4, 1]))
    copies = []
    monkeypatch.setattr(
        matcher, "_on_host", lambda x: copies.append(x) or np.zeros(x.shape, dtype=np.float32)
    )
    pairs = torch.empty(2, 3 * LAYERS, dtype=torch.long, device="meta").unbind()
    monkeypatch.setattr(matcher.Matches, "to", lambda *_: pairs)  # a copy that nobody waits for
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # has no such device
    images = ImageList(torch.empty(2, 3, 64, 96, device="meta"), [(64, 96), (60, 70)])
    with NoSynchronisation(), EventStorage():
        queries = model.decode(images)
        scores, embeddings = model.classifier(queries.flatten(0, 2))
        losses, instances = model.criterion(
            model.classifier, scores, embeddings, model._boxes(queries), targets
        )
        sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters() if p.requires_grad)
    assert [len(part) for part in instances] == [3, 3] and len(copies) == 1


# --- two processes


def batch(counts: list[int]) -> list[dict]:
    boxes = [[4.0, 4, 30, 40], [30, 20, 60, 62], [10, 30, 22, 50]]
    return [record(boxes[:n], [3, 7, 3][:n], seed=i) for i, n in enumerate(counts)]


def model_gradients(cfg, images: list[dict]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = build_model(cfg).train().double()
    with EventStorage():
        sum(model(images).values()).backward()
    return [p.grad for p in model.parameters() if p.requires_grad]


def _one_of_two(rank: int, folder: str, cases: list):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for i, (cfg, counts) in enumerate(cases):
        grads = model_gradients(cfg, batch(counts)[rank : rank + 1])
        for grad in grads:
            dist.all_reduce(grad)
        if rank == 0:
            torch.save([grad / 2 for grad in grads], f"{folder}/{i}.pth")
    dist.destroy_process_group()


def test_two_processes_have_the_gradient_of_the_joined_batch(cfg, tmp_path):
    cfg = tiny_detr(cfg, "MODEL.DETR.DROPOUT", 0.0, "MODEL.BACKBONE.FREEZE_AT", 5)
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SoftmaxCELoss"  # cosines would be float32
    boxes_alone = cfg.clone()
    # The classification is a mean over a process's queries, weighted, as in the public code
    boxes_alone.MODEL.DETR.CLS_WEIGHT = 0.0
    cases = [(cfg, [2, 2]), (boxes_alone, [3, 1]), (boxes_alone, [2, 0])]
    mp.spawn(_one_of_two, args=(str(tmp_path), cases), nprocs=2)
    for i, (config, counts) in enumerate(cases):
        joined = model_gradients(config, batch(counts))
        assert sum(grad.abs().sum() for grad in joined) > 0
        for got, wanted in zip(torch.load(tmp_path / f"{i}.pth"), joined, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)
