"""The losses, their references, constants to test them with, and batches for them."""

import pytest
import reference_losses as softmax_loops
import reference_sigmoid_losses as sigmoid_loops
import torch

from igam_d2.losses import CLS_LOSS_REGISTRY, ClsLoss
from igam_d2.losses.base import loss_defaults

D = 6
LOSSES = dict(CLS_LOSS_REGISTRY)
STATEFUL = [
    "EQLv2Loss",
    "SeesawLoss",
    "EqualizedFocalLoss",
    "LOCELoss",
    "FCBLLoss",
    "SphereFaceLoss",
    "CenterLoss",
]
RANDOM = ("DropLoss", "ACSLLoss", "BAGSLoss")
FLOAT32_CONSTANTS = ("BalancedSoftmaxLoss", "DisAlignLoss")  # made of counts, and kept in float32

# Of the random ones, constants with which nothing is left to chance.
CASES = [
    ("SoftmaxCELoss", {}),
    ("CosineCELoss", {"scale": 30.0}),
    ("IGAMLoss", {"scale": 30.0}),
    ("CosFaceLoss", {"scale": 20.0, "margin": 0.35}),
    ("ArcFaceLoss", {"scale": 20.0, "margin": 0.5}),
    ("ArcFaceLoss", {"scale": 20.0, "margin": 2.0}),  # often beyond pi
    ("SphereFaceLoss", {"margin": 4, "lambda_max": 1500.0, "lambda_min": 5.0}),
    ("SphereFaceLoss", {"margin": 3, "lambda_max": 1.2, "lambda_min": 1.05}),
    ("C2AMLoss", {"scale": 30.0, "alpha": 0.5}),
    ("C2AMLoss", {"scale": 30.0, "alpha": 9.0}),  # often beyond pi
    ("VirtualSoftmaxLoss", {}),
    ("CenterLoss", {"weight": 0.003, "step": 0.5}),
    ("CenterLoss", {"weight": 2.0, "step": 1.0}),
    ("LOCELoss", {"start": 0.01, "momentum": 0.9, "background": 0.01}),
    ("LOCELoss", {"start": 0.2, "momentum": 0.4, "background": 0.1}),
    ("SeesawLoss", {"p": 0.8, "q": 2.0, "eps": 0.01, "normalized": True, "scale": 20.0}),
    ("SeesawLoss", {"p": 2.0, "q": 0.5, "eps": 0.3, "normalized": False}),
    ("BAGSLoss", {"thresholds": (10, 100, 1000), "beta": 1e6}),
    ("BAGSLoss", {"thresholds": (50,), "beta": 1e6}),
    ("DisAlignLoss", {"rho": 0.8}),
    ("FocalLoss", {"alpha": 0.25, "gamma": 2.0}),
    ("FocalLoss", {"alpha": 0.6, "gamma": 0.5}),
    ("EqualizedFocalLoss", {"alpha": 0.25, "gamma": 2.0, "focus": 8.0}),
    ("EqualizedFocalLoss", {"alpha": 0.95, "gamma": 1.0, "focus": 3.0}),  # g held at 1
    ("EQLv2Loss", {"gamma": 12.0, "mu": 0.8, "alpha": 4.0}),
    ("EQLLoss", {"rare_frequency": 0.00225}),  # exactly the last class of context()
    ("DropLoss", {"rare_frequency": 1.0}),  # all are rare: no background RoI drops a class
    ("BalancedSoftmaxLoss", {}),
    ("ACSLLoss", {"threshold": 0.7, "rare_share": 1.0, "common_share": 1.0}),
    ("FCBLLoss", {"alpha": 1.0, "floor": 1e-3}),
    ("FCBLLoss", {"alpha": 0.85, "floor": 0.1, "reweight": True}),
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
all_cases = pytest.mark.parametrize("name, constants", CASES, ids=IDS)


def context(k: int) -> dict:
    """Two rare, one common and two frequent classes, in that pattern for any K."""

    def repeated(values):
        return torch.tensor((values * k)[:k])

    return {
        "num_classes": k,
        "embedding_dim": D,
        "normalization": "mean",
        "class_instance_count": repeated([3, 40, 700, 5000, 10]),
        "class_image_count": repeated([2, 30, 500, 3000, 9]),
        "num_images": 4000,
        "class_frequency": list(("rcffr" * k)[:k]),
    }


def build(name: str, k: int = 5, **constants) -> ClsLoss:
    loss = LOSSES[name](**LOSSES[name].asks(context(k)), **constants)
    loss.set_information(torch.linspace(9, 20, k).flip(0))
    return loss


def reference(loss: ClsLoss, **constants) -> softmax_loops.Loop:
    """The loop for a loss, with the loss's own parameters and what it starts from."""
    name, k = type(loss).__name__, loss.num_classes
    name = name.removesuffix("Loss")
    loop = getattr(softmax_loops, name, None) or getattr(sigmoid_loops, name)
    arguments = loss_defaults(type(loss)) | context(k) | constants
    loop = loop(k, **arguments)
    if name == "IGAM":
        loop.potentials = loss.potentials.tolist()
    if name == "Center":
        loop.centers = loss.centers.tolist()
    if name == "DisAlign":
        loop.align = list(parameters(loss))
    return loop


def parameters(loss: ClsLoss) -> tuple[torch.Tensor, ...]:
    """Those of DisAlign; no other loss has any."""
    if not loss.second_stage:
        return ()
    return loss.scale, loss.shift, loss.confidence.weight, loss.confidence.bias


def pair(name: str, k: int = 5, **constants) -> tuple[ClsLoss, softmax_loops.Loop]:
    """A loss in float64, its parameters away from where they start, and its loop."""
    loss = build(name, k, **constants).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters(loss):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.3 * noise
    return loss, reference(loss, **constants)


def batch(loss: ClsLoss, rows: int = 12, seed: int = 0, kind: str = "mixed") -> dict:
    """Arguments of `forward` in float64, without sample weights; kind: mixed, background, ties."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    scores = 1.5 * normal(rows, loss.num_outputs).detach()
    gt_classes = torch.randint(loss.num_classes + 1, (rows,), generator=generator)
    if loss.classifier == "cosine":
        scores = 0.97 * torch.sin(2 * scores)
    if kind == "background":
        gt_classes[:] = loss.num_classes
    if kind == "ties":
        scores[:] = 0.3
    return {
        "scores": scores.requires_grad_(),
        "gt_classes": gt_classes,
        "embeddings": normal(rows, D),
        "class_weight": normal(loss.num_outputs, D),
    }


def leaves(data: dict, loss: ClsLoss | None = None) -> list[torch.Tensor]:
    """What to take gradients of."""
    return [t for t in data.values() if t.requires_grad] + list(parameters(loss) if loss else ())


def total(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    assert all(value.dim() == 0 for value in parts.values())
    return sum(parts.values())


def gradients(value: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Zeros for what the value does not depend on."""
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, grads, strict=True)
    ]


def assert_same(a: torch.Tensor, b: torch.Tensor, leaves: list[torch.Tensor], tolerance=1e-9):
    """Equal values and gradients."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for ga, gb in zip(gradients(a, leaves), gradients(b, leaves), strict=True):
        torch.testing.assert_close(ga, gb, rtol=tolerance, atol=tolerance)


def assert_state(loss: ClsLoss, loop: softmax_loops.Loop):
    """The buffers of a loss are the attributes of its loop."""
    for name in loop.state:
        expected = torch.as_tensor(getattr(loop, name), dtype=torch.float64)
        got = getattr(loss, name).double()
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: n + m)
