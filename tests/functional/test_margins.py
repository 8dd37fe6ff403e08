"""Margins and the loss against the textbook version in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from igam_d2 import functional as IF
from igam_d2.functional import margins

MARGIN_TABLE = {  # reading: largest margin (rad) for K = 20, 80, 1203
    "paper": (1.78e-3, 2.22e-4, 3.81e-6),
    "mean_sqrt": (0.0355, 0.0178, 0.00459),
    "mean": (0.156, 0.156, 0.156),
    "ratio": (0.350, 0.350, 0.350),
}


@pytest.mark.parametrize("reading", IF.READINGS)
def test_largest_margins_of_each_reading(reading):
    for k, expected in zip((20, 80, 1203), MARGIN_TABLE[reading], strict=True):
        information = 17 * torch.linspace(0.5, 1.5, k, dtype=torch.float64)
        potentials = IF.margin_potentials(IF.normalize_information(information, reading=reading))
        assert IF.pairwise_margins(potentials).max().item() == pytest.approx(expected, rel=4e-3)


@pytest.mark.parametrize("reading", IF.READINGS)
def test_margins_equal_the_formula_in_a_loop(reading):
    information = torch.tensor([2.0, 9.0, 4.0, 4.0], dtype=torch.float64)
    k, bits = 4, [2.0, 9.0, 4.0, 4.0]
    total = sum(bits)
    unit = {"paper": total * 2, "mean_sqrt": total / k * 2, "mean": total / k}.get(reading)
    if reading == "ratio":
        normalized = [max(b, 1e-3 * total / k) for b in bits]
    else:
        weights = [math.exp(b / unit) for b in bits]
        normalized = [w / sum(weights) * k + 1 for w in weights]
    got = IF.normalize_information(information, reading=reading)
    torch.testing.assert_close(got, torch.tensor(normalized, dtype=torch.float64))
    expected = [[max(0, math.log(a / b) / math.pi) for b in normalized] for a in normalized]
    margins = IF.pairwise_margins(IF.margin_potentials(got))
    torch.testing.assert_close(margins, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("reading", IF.READINGS)
def test_classes_not_measured_take_no_part(reading):
    seen = torch.tensor([2.0, 9.0, 4.0])
    all_classes = torch.tensor([2.0, math.nan, 9.0, 4.0, math.nan])
    normalized = IF.normalize_information(all_classes, reading=reading)
    torch.testing.assert_close(
        normalized[[0, 2, 3]], IF.normalize_information(seen, reading=reading)
    )
    margins = IF.pairwise_margins(IF.margin_potentials(normalized))
    assert (margins[[1, 4]] == 0).all() and (margins[:, [1, 4]] == 0).all()
    assert margins.max() > 0
    for constant in (0.0, math.nan):  # nothing to tell classes apart by
        same = IF.normalize_information(torch.full((4,), constant), reading=reading)
        assert (IF.pairwise_margins(IF.margin_potentials(same)) == 0).all()


def test_unknown_reading():
    with pytest.raises(ValueError, match="paper, mean_sqrt, mean, ratio"):
        IF.normalize_information(torch.ones(3), reading="median")


def textbook_logits(cosine, gt_classes, potentials, scale, sign=1.0):
    """Eq. (6) with acos, cos and a K x K table of margins, element by element."""
    k = len(potentials)
    logits = scale * cosine.clone()
    for row, y in enumerate(gt_classes.tolist()):
        for j in range(k):
            if y < k and j != y:
                margin = max(0.0, float(potentials[y] - potentials[j]))
                if math.isnan(float(potentials[y] - potentials[j])):
                    margin = 0.0
                theta = (torch.acos(cosine[row, j]) + sign * margin).clamp(0, math.pi)
                logits[row, j] = scale * torch.cos(theta)
    return logits


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    cosine = torch.empty(12, 6, dtype=torch.float64).uniform_(-0.99, 0.99, generator=generator)
    gt_classes = torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 1, 2, 3, 4])
    potentials = torch.tensor([0.1, 0.9, math.nan, -0.3, 0.1], dtype=torch.float64)
    return cosine.requires_grad_(), gt_classes, potentials


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_and_gradients_equal_the_textbook(batch, sign):
    cosine, gt_classes, potentials = batch
    got = IF.margin_logits(cosine, gt_classes, potentials, scale=30, sign=sign)
    expected = textbook_logits(cosine, gt_classes, potentials, 30, sign)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(got)
    (a,) = torch.autograd.grad(got, cosine, weight)
    (b,) = torch.autograd.grad(expected, cosine, weight)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_fused_loss_equals_cross_entropy_of_the_logits_gradients_too(batch, sign):
    cosine, gt_classes, potentials = batch
    got = IF.igam_loss(cosine, gt_classes, potentials, scale=30, sign=sign)
    logits = textbook_logits(cosine, gt_classes, potentials, 30, sign)
    expected = F.cross_entropy(logits, gt_classes)
    torch.testing.assert_close(got, expected)
    (a,), (b,) = (torch.autograd.grad(3 * loss, cosine) for loss in (got, expected))
    torch.testing.assert_close(a, b)


def test_gradcheck(batch):
    cosine, gt_classes, potentials = batch
    for function in (IF.igam_loss, IF.margin_logits):
        assert torch.autograd.gradcheck(
            lambda c, f=function: f(c, gt_classes, potentials, scale=5.0), (cosine,)
        )


@pytest.mark.parametrize("potentials", [torch.zeros(5), torch.full((5,), math.nan)])
def test_zero_margin_is_the_cosine_softmax_gradients_too(batch, potentials):
    cosine, gt_classes, _ = batch
    logits = IF.margin_logits(cosine, gt_classes, potentials, scale=30)
    torch.testing.assert_close(logits, 30 * cosine, rtol=0, atol=0)
    (a,) = torch.autograd.grad(IF.igam_loss(cosine, gt_classes, potentials, scale=30), cosine)
    (b,) = torch.autograd.grad(F.cross_entropy(30 * cosine, gt_classes), cosine)
    torch.testing.assert_close(a, b)


def test_angle_is_held_at_pi_and_ends_are_finite():
    potentials = torch.tensor([4.0, 0.5, 0.0])  # margins of 3.5 and 4 rad, beyond any angle
    cosine = torch.tensor([[1.0, 1.0, -1.0, 0.3], [-1.0, 1.0, -1.0, 1.0]], requires_grad=True)
    logits = IF.margin_logits(cosine, torch.tensor([0, 1]), potentials, scale=2)
    expected = [[2, -2, -2, 0.6], [-2, 2, 2 * math.cos(math.pi), 2]]
    torch.testing.assert_close(logits, torch.tensor(expected))
    logits.sum().backward()
    assert cosine.grad.isfinite().all()
    angles = torch.linspace(0, math.pi, 100)
    row = torch.zeros(100, 4)
    row[:, 1] = angles.cos()
    small = IF.margin_logits(row, torch.zeros(100).long(), potentials / 4, scale=1)[:, 1]
    assert (small.diff() <= 1e-6).all() and small[-1] == -1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
def test_float32_against_the_textbook_in_float64(spread, sign):
    """Up to |cos| = 1 - 1e-4: 1e-5 on logits, 1e-4 on rows of the gradient, 1e-6 on the loss."""
    generator = torch.Generator().manual_seed(0)
    potentials = torch.rand(200, generator=generator) * spread
    cosine = torch.empty(300, 201).uniform_(-1.2, 1.2, generator=generator)
    cosine = cosine.clamp_(-1 + 1e-4, 1 - 1e-4).requires_grad_()
    gt_classes = torch.randint(201, (300,), generator=generator)
    exact = cosine.detach().double().requires_grad_()
    margins = F.pad(IF.pairwise_margins(potentials.double()), (0, 1, 0, 1))[gt_classes]
    expected = 30 * (exact.acos() + sign * margins).clamp(0, math.pi).cos()
    logits = IF.margin_logits(cosine, gt_classes, potentials, scale=30.0, sign=sign)
    assert (logits - expected).abs().max() < 1e-5

    expected_loss = F.cross_entropy(expected, gt_classes)
    loss = IF.igam_loss(cosine, gt_classes, potentials, scale=30.0, sign=sign)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    (a,) = torch.autograd.grad(loss, cosine)
    (b,) = torch.autograd.grad(expected_loss, exact)
    assert ((a - b).norm(dim=1) / b.norm(dim=1)).max() < 1e-4


@pytest.mark.parametrize("rows", ["sorted", "mixed"])
@pytest.mark.parametrize("scale", [30.0, 400.0])  # 400: probabilities underflow
def test_rows_taken_in_turn_equal_all_at_once(rows, scale, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    cosine = torch.empty(90, 8).uniform_(-1, 1, generator=generator)
    gt_classes = torch.randint(8, (90,), generator=generator)
    gt_classes[::2] = 7
    if rows == "sorted":
        gt_classes = gt_classes.sort().values
    angles = margins._HalfAngles(torch.rand(7, generator=generator), cosine.dtype)
    monkeypatch.setattr(margins, "_CHUNK", 100)  # 12 rows
    got = margins._loss_on_cpu(cosine, gt_classes, angles, scale, 1)
    angles.wide = True  # as on a GPU
    expected = margins._loss_at_once(cosine, gt_classes, angles, scale, 1)
    torch.testing.assert_close(got, expected)
    slices = [rows for _, rows in margins._runs((gt_classes < 7).tolist(), 8)]
    assert [i for rows in slices for i in range(90)[rows]] == list(range(90))
    assert max(len(range(90)[rows]) for rows in slices) <= 12


def test_the_loss_saves_no_more_than_the_cosines(batch):
    cosine, gt_classes, potentials = batch
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        IF.igam_loss(cosine, gt_classes, potentials, scale=30)
    assert sum(t.numel() for t in saved) == cosine.numel()


@pytest.mark.parametrize("function", [IF.igam_loss, IF.margin_logits])
def test_a_device_is_never_waited_for(function):
    """Tensors without values: to look at one, as a synchronisation does, is an error."""
    cosine = torch.empty(6, 5, device="meta", requires_grad=True)
    gt_classes = torch.empty(6, dtype=torch.int64, device="meta")
    potentials = torch.empty(4, device="meta")
    function(cosine, gt_classes, potentials, scale=30).sum().backward()
    assert cosine.grad.shape == (6, 5)


@pytest.mark.parametrize("function", [IF.igam_loss, IF.margin_logits])
@pytest.mark.parametrize(
    "gt_classes, message",
    [
        ([0, 6], r"from 0 to 5 .*are from 0 to 6"),
        ([-1, 0], "from -1 to 0"),
        ([0], "1 labels .* 2 rows"),
    ],
)
def test_labels_that_do_not_fit(function, gt_classes, message):
    with pytest.raises(ValueError, match=message):
        function(torch.rand(2, 6), torch.tensor(gt_classes), torch.rand(5), scale=30)


def test_empty_and_background_batches():
    potentials = torch.tensor([0.2, 0.0])
    empty = torch.empty(0, 3, requires_grad=True)
    loss = IF.igam_loss(empty, torch.empty(0).long(), potentials, scale=30)
    loss.backward()
    assert loss == 0 and empty.grad.shape == (0, 3)
    cosine = torch.rand(4, 3)
    background = torch.full((4,), 2)
    torch.testing.assert_close(
        IF.igam_loss(cosine, background, potentials, scale=30),
        F.cross_entropy(30 * cosine, background),
    )
    with pytest.raises(ValueError, match="columns"):
        IF.margin_logits(cosine, background, torch.zeros(7), scale=30)
