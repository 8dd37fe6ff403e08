"""Constants with which one loss becomes another, gradients included; slopes; another library."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_cases import LOSSES, D, all_cases, assert_same, batch, build, leaves, total
from pytorch_metric_learning import losses as library

pytestmark = pytest.mark.usefixtures("float64")
K = 5
NO_BLEND = {"lambda_min": 0.0, "lambda_max": 0.0}


def bce_of(scores: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
    """Of all cells, summed."""
    target = F.one_hot(gt_classes, K + 1)[:, : scores.shape[1]].to(scores.dtype)
    return F.binary_cross_entropy_with_logits(scores, target, reduction="sum")


@pytest.mark.parametrize(
    "name, constants, other, others",
    [
        ("CosFaceLoss", {"margin": 0.0, "scale": 20.0}, "CosineCELoss", {"scale": 20.0}),
        ("ArcFaceLoss", {"margin": 0.0, "scale": 20.0}, "CosineCELoss", {"scale": 20.0}),
        ("C2AMLoss", {"alpha": 0.0, "scale": 20.0}, "CosineCELoss", {"scale": 20.0}),
        ("CenterLoss", {"weight": 0.0}, "SoftmaxCELoss", {}),
        ("LOCELoss", {"start": 0.3, "momentum": 1.0, "background": 0.3}, "SoftmaxCELoss", {}),
        ("DisAlignLoss", {"rho": 0.0}, "SoftmaxCELoss", {}),  # as it starts
        ("EqualizedFocalLoss", {"focus": 0.0, "gamma": 1.5}, "FocalLoss", {"gamma": 1.5}),
    ],
)
def test_one_loss_becomes_another(name, constants, other, others):
    loss, other = build(name, **constants), build(other, **others)
    for seed in range(2):
        data = batch(loss, seed=seed)
        assert_same(total(loss(**data)), total(other(**data)), leaves(data))
    probs = loss.predict_probs(data["scores"], embeddings=data["embeddings"])
    torch.testing.assert_close(probs, other.predict_probs(data["scores"]))


@pytest.mark.parametrize(
    "name, constants, steps",
    [
        ("EQLLoss", {"rare_frequency": 0.0}, 2),
        ("DropLoss", {"rare_frequency": 0.0}, 2),
        ("FCBLLoss", {"alpha": 0.0}, 2),
        ("FCBLLoss", {}, 1),
        ("EQLv2Loss", {}, 1),  # sigmoid(12 (100 - .8)) is 1
        ("ACSLLoss", {"threshold": 0.0, "rare_share": 1.0, "common_share": 1.0}, 2),
    ],
)
def test_binary_cross_entropy_at_the_start_or_without_weights(name, constants, steps):
    loss = build(name, **constants)
    for seed in range(steps):
        data = batch(loss, seed=seed)
        expected = bce_of(data["scores"], data["gt_classes"]) / len(data["scores"])
        assert_same(total(loss(**data)), expected, leaves(data))


def test_focal_without_focus_is_half_the_cross_entropy():
    loss = build("FocalLoss", alpha=0.5, gamma=0.0)
    for kind in ("mixed", "background"):
        data = batch(loss, kind=kind)
        num_foreground = max(1, int((data["gt_classes"] < K).sum()))
        expected = bce_of(data["scores"], data["gt_classes"]) / 2 / num_foreground
        assert_same(total(loss(**data)), expected, leaves(data))


def test_balanced_softmax_of_two_equal_classes_shifts_nothing():
    loss = LOSSES["BalancedSoftmaxLoss"](2, torch.tensor([9, 9]))
    data = batch(loss)
    target = F.one_hot(data["gt_classes"], 3)[:, :2].double()
    expected = 2 * F.binary_cross_entropy_with_logits(data["scores"], target)
    assert_same(total(loss(**data)), expected, leaves(data))


def test_acsl_beyond_every_score_keeps_the_own_class_alone():
    loss = build("ACSLLoss", threshold=1.0, rare_share=1.0, common_share=1.0)
    data = batch(loss)
    scores, gt_classes = data["scores"], data["gt_classes"]
    background = gt_classes == K
    own = F.softplus(-scores.gather(1, gt_classes[:, None])).squeeze(1)[~background]
    expected = (own.sum() + bce_of(scores[background], gt_classes[background])) / len(scores)
    assert_same(total(loss(**data)), expected, leaves(data))


def test_sphereface_without_margin_is_a_softmax_of_projections():
    data = batch(loss := build("SphereFaceLoss", margin=1))
    logits = data["scores"] * data["embeddings"].norm(dim=1, keepdim=True)
    assert_same(total(loss(**data)), F.cross_entropy(logits, data["gt_classes"]), leaves(data))


def test_c2am_of_equal_norms_has_no_margin():
    loss, plain = build("C2AMLoss", scale=30.0), build("CosineCELoss", scale=30.0)
    data = batch(loss)
    assert total(loss(**data)) != total(plain(**data))
    data["class_weight"] = F.normalize(data["class_weight"].detach(), dim=1)
    data["class_weight"][K] *= 7  # the background has no margin anyhow
    assert_same(total(loss(**data)), total(plain(**data)), leaves(data))


@pytest.mark.parametrize("scale, normalized", [(20.0, True), (1.0, False)])
def test_seesaw_without_factors_is_two_cross_entropies(scale, normalized):
    loss = build("SeesawLoss", p=0.0, q=0.0, scale=20.0, normalized=normalized)
    assert loss.classifier == ("cosine" if normalized else "linear")
    data = batch(loss)
    logits, foreground = scale * data["scores"], data["gt_classes"] < K
    classes = F.cross_entropy(
        logits[foreground, :K], data["gt_classes"][foreground], reduction="sum"
    )
    expected = classes / len(logits) + F.cross_entropy(logits[:, K:], (~foreground).long())
    assert_same(total(loss(**data)), expected, leaves(data))


def test_bags_with_one_group_and_all_others():
    data = batch(loss := build("BAGSLoss", thresholds=(10**9,), beta=1e9))
    scores, gt_classes = data["scores"], data["gt_classes"]
    pair = F.cross_entropy(scores[:, K : K + 2], (gt_classes < K).long())
    group = F.cross_entropy(scores[:, [*range(K), K + 2]], gt_classes)
    assert_same(total(loss(**data)), pair + group, leaves(data))


def test_virtual_softmax_of_a_zero_classifier_has_one_more_class_of_logit_zero():
    data = batch(loss := build("VirtualSoftmaxLoss"))
    data["class_weight"] = torch.zeros_like(data["class_weight"])
    expected = F.cross_entropy(F.pad(data["scores"], (0, 1)), data["gt_classes"])
    assert_same(total(loss(**data)), expected, leaves(data))


@all_cases
def test_slopes(name, constants):
    """Of finite differences; what the gradient passes over is not varied, or left out."""
    if name == "SeesawLoss":
        constants = constants | {"q": 0.0}
    loss = build(name, **constants)
    loss(**batch(loss, seed=5))
    data = batch(loss.eval(), rows=6)
    if name == "C2AMLoss":
        data["class_weight"] = data["class_weight"].detach()
    names = [key for key, value in data.items() if value.requires_grad]

    def value(*tensors):
        return total(loss(**data | dict(zip(names, tensors, strict=True))))

    assert torch.autograd.gradcheck(value, [data[key] for key in names], fast_mode=True)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of that library
@pytest.mark.parametrize(
    "name, constants, others",
    [
        ("CosFaceLoss", {"scale": 16.0, "margin": 0.35}, {"scale": 16.0, "margin": 0.35}),
        ("ArcFaceLoss", {"scale": 16.0, "margin": 1.2}, {"scale": 16.0, "margin": 216 / math.pi}),
        ("SphereFaceLoss", {"margin": 4, "lambda_max": 0.0, "lambda_min": 0.0}, {"margin": 4}),
        ("CosineCELoss", {"scale": 16.0}, {"temperature": 1 / 16}),
    ],
)
def test_angular_losses_equal_those_of_pytorch_metric_learning(name, constants, others):
    """On the foreground: that library has no background."""
    other = {"CosineCELoss": "NormalizedSoftmaxLoss"}.get(name, name)
    loss, other = build(name, **constants), getattr(library, other)(K + 1, D, **others)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, D, generator=generator).requires_grad_()
    weight = torch.randn(K + 1, D, generator=generator).requires_grad_()
    gt_classes = torch.randint(K, (40,), generator=generator)
    scores = F.normalize(x) @ F.normalize(weight).T
    value = total(loss(scores, gt_classes, embeddings=x, class_weight=weight))
    del other.W
    other.W = weight.T
    assert_same(value, other(x, gt_classes), [x, weight], tolerance=1e-6)
