"""The losses against float64 loops, their contract and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from igam_d2.functional import margin_logits, margin_potentials, normalize_information
from igam_d2.losses import CLS_LOSS_REGISTRY, ClsLoss, CosineCELoss, IGAMLoss, SoftmaxCELoss
from igam_d2.losses.base import CONTEXT, loss_defaults

K = 4
LOSSES = [loss for _, loss in CLS_LOSS_REGISTRY]


def build(loss: type[ClsLoss]) -> ClsLoss:
    return loss(**loss.asks({"num_classes": K, "embedding_dim": 8, "normalization": "mean"}))


def batch(loss: ClsLoss, rows: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = (
        torch.rand(rows, loss.num_outputs, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    )
    return scores.requires_grad_(), torch.randint(K + 1, (rows,), generator=generator)


def total(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    assert all(value.dim() == 0 for value in parts.values())
    return sum(parts.values())


def cross_entropy_loop(logits, gt_classes, weights=None):
    weights = [1.0] * len(logits) if weights is None else weights.tolist()
    losses = []
    for row, y, w in zip(logits.tolist(), gt_classes.tolist(), weights, strict=True):
        losses.append(w * (math.log(sum(math.exp(z) for z in row)) - row[y]))
    return sum(losses) / sum(weights)


@pytest.mark.parametrize("loss, scale", [(SoftmaxCELoss, 1.0), (CosineCELoss, 30.0)])
def test_cross_entropies_equal_the_loop(loss, scale):
    loss = build(loss)
    scores, gt_classes = batch(loss)
    weights = torch.rand(20, dtype=torch.float64)
    expected = cross_entropy_loop(scale * scores, gt_classes)
    assert total(loss(scores, gt_classes)).item() == pytest.approx(expected)
    expected = cross_entropy_loop(scale * scores, gt_classes, weights)
    assert total(loss(scores, gt_classes, sample_weight=weights)).item() == pytest.approx(expected)


def test_igam_takes_its_margins_from_the_information():
    loss = build(IGAMLoss)
    information = torch.tensor([5.0, 20.0, math.nan, 9.0])
    loss.set_information(information)
    potentials = margin_potentials(normalize_information(information, reading="mean"))
    torch.testing.assert_close(loss.potentials, potentials, equal_nan=True)
    scores, gt_classes = batch(loss)
    logits = margin_logits(scores, gt_classes, potentials, scale=30)
    expected = cross_entropy_loop(logits.detach(), gt_classes)
    assert total(loss(scores, gt_classes)).item() == pytest.approx(expected)
    weights = torch.rand(20, dtype=torch.float64)
    expected = cross_entropy_loop(logits.detach(), gt_classes, weights)
    assert total(loss(scores, gt_classes, sample_weight=weights)).item() == pytest.approx(expected)


def test_margins_relax_or_tighten_the_class_with_more_information():
    scores, gt_classes = batch(CosineCELoss(K))
    gt_classes = torch.ones_like(gt_classes)  # the class with the most information
    plain = total(CosineCELoss(K)(scores, gt_classes))
    losses = {sign: IGAMLoss(K, margin_sign=sign) for sign in (1, -1)}
    for loss in losses.values():
        loss.set_information(torch.tensor([5.0, 20.0, 7.0, 9.0]))
    assert total(losses[1](scores, gt_classes)) < plain < total(losses[-1](scores, gt_classes))


def test_igam_before_the_first_refresh_is_cosine_ce_gradients_too():
    igam, plain = build(IGAMLoss), build(CosineCELoss)
    scores, gt_classes = batch(igam)
    a, b = total(igam(scores, gt_classes)), total(plain(scores, gt_classes))
    torch.testing.assert_close(a, b)
    (ga,), (gb,) = (torch.autograd.grad(x, scores) for x in (a, b))
    torch.testing.assert_close(ga, gb)
    torch.testing.assert_close(igam.predict_probs(scores), plain.predict_probs(scores))


def test_potentials_are_saved_with_the_model():
    loss, other = build(IGAMLoss), build(IGAMLoss)
    loss.set_information(torch.tensor([1.0, 2.0, 3.0, math.nan]))
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other.potentials, loss.potentials, equal_nan=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_contract(loss):
    defaults = loss_defaults(loss)
    assert not set(defaults) & set(CONTEXT) and loss.classifier in ("linear", "cosine")
    loss = build(loss)
    scores, gt_classes = batch(loss)
    embeddings = torch.randn(20, 8)
    probs = loss.predict_probs(scores, embeddings=embeddings)
    assert probs.shape == (20, K + 1) and (probs >= 0).all() and (probs <= 1).all()
    kwargs = {"embeddings": embeddings, "class_weight": torch.randn(loss.num_outputs, 8)}
    for rows in (slice(0, 20), slice(0, 1), slice(0, 0)):
        for classes in (gt_classes, torch.full_like(gt_classes, K)):
            part = {"embeddings": embeddings[rows], "class_weight": kwargs["class_weight"]}
            value = total(loss(scores[rows], classes[rows], **part))
            (grad,) = torch.autograd.grad(value, scores)
            assert value.isfinite() and grad.isfinite().all()
            if rows == slice(0, 0):
                assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    loss = build(loss)
    scores, gt_classes = batch(loss)
    half = total(loss(scores.to(dtype), gt_classes))
    assert half.dtype == torch.float32
    full = total(loss(scores.to(dtype).float(), gt_classes))
    torch.testing.assert_close(half, full, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scale": 0.0}, "scale must be positive"),
        ({"scale": -3.0}, "scale must be positive"),
        ({"margin_sign": 2}, "margin_sign"),
        ({"normalization": "median"}, "paper, mean_sqrt"),
    ],
)
def test_constants_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        IGAMLoss(K, **arguments)


def test_an_argument_that_nothing_provides_is_named():
    class Odd(ClsLoss):
        def __init__(self, num_classes, colour):
            super().__init__(num_classes)

    with pytest.raises(TypeError, match="'colour'"):
        loss_defaults(Odd)


def test_loss_learns_a_separable_problem():
    torch.manual_seed(0)
    gt_classes = torch.randint(K + 1, (400,))
    x = 2 * torch.eye(8)[gt_classes] + 0.3 * torch.randn(400, 8)
    for loss in map(build, LOSSES):
        weight = torch.zeros(loss.num_outputs, 8).normal_(std=0.01).requires_grad_()
        loss.set_information(torch.tensor([4.0, 5.0, 6.0, 7.0]))
        optimizer = torch.optim.Adam([weight], lr=0.05)

        def scores(weight=weight, loss=loss):
            if loss.classifier == "cosine":
                return F.linear(F.normalize(x), F.normalize(weight))
            return F.linear(x, weight)

        for _ in range(60):
            optimizer.zero_grad()
            total(loss(scores(), gt_classes)).backward()
            optimizer.step()
        accuracy = (loss.predict_probs(scores()).argmax(1) == gt_classes).float().mean()
        assert accuracy > 0.97, type(loss).__name__
