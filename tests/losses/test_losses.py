"""The contract that every loss keeps, its constants, and what is IGAM's alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_cases import (
    LOSSES,
    D,
    all_cases,
    assert_same,
    batch,
    build,
    gradients,
    leaves,
    reference,
    total,
)

from igam_d2.functional import margin_logits, margin_potentials, normalize_information
from igam_d2.losses import ClsLoss, CosineCELoss, IGAMLoss
from igam_d2.losses.base import CONTEXT, EmptyClassError, loss_defaults

K = 5
NAMES = list(LOSSES)


def test_igam_takes_its_margins_from_the_information():
    loss = IGAMLoss(K)
    information = torch.tensor([5.0, 20.0, math.nan, 9.0, 4.0])
    loss.set_information(information)
    potentials = margin_potentials(normalize_information(information, reading="ratio"))
    torch.testing.assert_close(loss.potentials, potentials, equal_nan=True)
    data = batch(loss)
    logits = margin_logits(data["scores"], data["gt_classes"], potentials, scale=30)
    assert_same(total(loss(**data)), F.cross_entropy(logits, data["gt_classes"]), leaves(data))


def test_margins_relax_or_tighten_the_class_with_more_information():
    data = batch(CosineCELoss(K))
    data["gt_classes"][:] = 1  # the class with the most information
    plain = total(CosineCELoss(K)(**data))
    losses = {sign: IGAMLoss(K, margin_sign=sign) for sign in (1, -1)}
    for loss in losses.values():
        loss.set_information(torch.tensor([5.0, 20.0, 7.0, 9.0, 8.0]))
    assert total(losses[1](**data)) < plain < total(losses[-1](**data))


def test_igam_before_the_first_refresh_is_cosine_ce_gradients_too():
    igam, plain = IGAMLoss(K), CosineCELoss(K)
    data = batch(igam)
    assert_same(total(igam(**data)), total(plain(**data)), leaves(data))
    torch.testing.assert_close(
        igam.predict_probs(data["scores"]), plain.predict_probs(data["scores"])
    )


def test_potentials_are_saved_with_the_model():
    loss, other = IGAMLoss(K), IGAMLoss(K)
    loss.set_information(torch.tensor([1.0, 2.0, 3.0, math.nan, 4.0]))
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other.potentials, loss.potentials, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    defaults = loss_defaults(LOSSES[name])
    assert not set(defaults) & set(CONTEXT)
    loss = build(name)
    assert loss.classifier in ("linear", "cosine")
    data = batch(loss, 20)
    probs = loss.predict_probs(data["scores"], embeddings=data["embeddings"])
    assert probs.shape == (20, K + 1) and (probs >= 0).all() and (probs <= 1).all()
    for rows in (slice(0, 20), slice(0, 1), slice(0, 0)):
        for background in (False, True):
            part = {key: data[key][rows] for key in ("scores", "gt_classes", "embeddings")}
            if background:
                part["gt_classes"] = torch.full_like(part["gt_classes"], K)
            value = total(loss(**part, class_weight=data["class_weight"]))
            (grad,) = torch.autograd.grad(value, data["scores"])
            assert value.isfinite() and grad.isfinite().all()
            if rows == slice(0, 0):
                assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    values = []
    for convert in (lambda x: x, lambda x: x.float()):
        torch.manual_seed(0)  # some start, and some draw, at random
        loss = build(name)
        data = batch(loss)
        for key in ("scores", "embeddings", "class_weight"):
            data[key] = convert(data[key].to(dtype))
        values.append(total(loss(**data)))
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)


@all_cases
def test_single_precision_is_near_the_loop(name, constants):
    loss = build(name, **constants)
    loop = reference(loss, **constants)
    for seed in range(2):
        double = batch(loss, seed=seed)
        single = {
            key: value.detach().float().requires_grad_() if value.is_floating_point() else value
            for key, value in double.items()
        }
        value, expected = total(loss(**single)), loop(**double)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
        grads = zip(
            gradients(value, leaves(single)), gradients(expected, leaves(double)), strict=True
        )
        for a, b in grads:
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@all_cases
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_scores_at_their_bounds_and_zero_rows_have_finite_gradients(name, constants, size):
    loss = build(name, **constants)
    data = batch(loss)
    size = 1.0 if loss.classifier == "cosine" else size
    data["scores"] = (data["scores"].detach().float().sign() * size).requires_grad_()
    for key in ("embeddings", "class_weight"):
        data[key] = data[key].detach().float()
        data[key][0] = 0
        data[key].requires_grad_()
    for _ in range(2):
        value = total(loss(**data))
        grads = torch.autograd.grad(value, leaves(data), allow_unused=True)
        assert value.isfinite() and all(g is None or g.isfinite().all() for g in grads)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("IGAMLoss", {"scale": 0.0}, "scale must be positive"),
        ("IGAMLoss", {"scale": -3.0}, "scale must be positive"),
        ("IGAMLoss", {"margin_sign": 2}, "margin_sign"),
        ("ACSLLoss", {"threshold": 1.5}, "threshold must be from 0 to 1, not 1.5"),
        ("ACSLLoss", {"rare_share": -0.1}, "rare_share must be from 0 to 1"),
        ("ArcFaceLoss", {"margin": 3.2}, "margin must be below pi"),
        ("BAGSLoss", {"thresholds": (10, 10)}, "thresholds must rise"),
        ("BAGSLoss", {"thresholds": (10, "b")}, "thresholds must rise, and be positive numbers"),
        ("BAGSLoss", {"thresholds": (-1, 5)}, "thresholds must rise, and be positive numbers"),
        ("BAGSLoss", {"beta": -1.0}, "beta must not be negative"),
        ("C2AMLoss", {"alpha": -1.0}, "alpha must not be negative"),
        ("CenterLoss", {"step": 2.0}, "step must be from 0 to 1"),
        ("CenterLoss", {"weight": -1.0}, "weight must not be negative"),
        ("CosFaceLoss", {"margin": -0.1}, "margin must not be negative"),
        ("DisAlignLoss", {"rho": -0.1}, "rho must not be negative"),
        ("EQLLoss", {"rare_frequency": 3.0}, "rare_frequency must be from 0 to 1"),
        ("EqualizedFocalLoss", {"gamma": 0.0}, "gamma must be positive"),
        ("EqualizedFocalLoss", {"focus": -1.0}, "focus must not be negative"),
        ("EQLv2Loss", {"alpha": -4.0}, "alpha must not be negative"),
        ("EQLv2Loss", {"mu": math.nan}, "mu must not be negative or infinite: it is nan"),
        ("CosineCELoss", {"scale": math.inf}, "scale must be positive and finite, not inf"),
        ("FCBLLoss", {"floor": 1.0}, "floor must be above 0 and below 1"),
        ("FocalLoss", {"alpha": 2.0}, "alpha must be from 0 to 1"),
        ("FocalLoss", {"gamma": -1.0}, "gamma must not be negative"),
        ("LOCELoss", {"start": 0.0}, "start must be above 0"),
        ("LOCELoss", {"momentum": 1.1}, "momentum must be from 0 to 1"),
        ("SeesawLoss", {"p": -1.0}, "p must not be negative"),
        ("SeesawLoss", {"eps": 0.0}, "eps must be positive"),
        ("SphereFaceLoss", {"margin": 0}, "margin must be at least 1"),
        ("SphereFaceLoss", {"lambda_min": 9.0, "lambda_max": 5.0}, "lambda_min must be"),
    ],
)
def test_constants_out_of_range(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


def test_unknown_reading_of_the_information():
    with pytest.raises(ValueError, match="paper, mean_sqrt"):
        IGAMLoss(K, normalization="median")


@pytest.mark.parametrize("name", ["BalancedSoftmaxLoss", "DisAlignLoss"])
def test_classes_that_nothing_is_known_of_are_named(name):
    arguments = {"embedding_dim": D} if name == "DisAlignLoss" else {}
    with pytest.raises(EmptyClassError, match=r"\[1, 3\]") as error:
        LOSSES[name](4, torch.tensor([2, 0, 9, 0]), **arguments)
    assert error.value.classes == [1, 3]
    with pytest.raises(ValueError, match="counts of 3 classes, and the model 4"):
        LOSSES[name](4, torch.tensor([2, 1, 9]), **arguments)


def test_an_argument_that_nothing_provides_is_named():
    class Odd(ClsLoss):
        def __init__(self, num_classes, colour):
            super().__init__(num_classes)

    with pytest.raises(TypeError, match="'colour'"):
        loss_defaults(Odd)


@pytest.mark.parametrize("name", [name for name in NAMES if not LOSSES[name].second_stage])
def test_loss_learns_a_separable_problem(name):
    torch.manual_seed(0)
    loss = build(name)
    gt_classes = torch.randint(K + 1, (400,))
    x = 2 * torch.eye(D)[gt_classes] + 0.3 * torch.randn(400, D)
    weight = torch.zeros(loss.num_outputs, D).normal_(std=0.01).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.1)

    def scores():
        if loss.classifier == "cosine":
            return F.linear(F.normalize(x), F.normalize(weight))
        return F.linear(x, weight)

    for _ in range(40):
        optimizer.zero_grad()
        total(loss(scores(), gt_classes, embeddings=x, class_weight=weight)).backward()
        optimizer.step()
    right = loss.predict_probs(scores(), embeddings=x).argmax(1) == gt_classes
    if loss.num_outputs == K:  # without a column for the background
        right = right[gt_classes < K]
    assert right.float().mean() > 0.9
