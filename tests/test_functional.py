"""Every equation against a naive float64 loop or a closed form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from igam_d2 import functional as IF
from igam_d2.functional import margins


def random_covariances(k: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(k, 3 * dim, dim, generator=generator, dtype=torch.float64)
    x = x * torch.linspace(0.2, 3, dim, dtype=torch.float64)
    return x.transpose(1, 2) @ x / (3 * dim)


def listing_1(covariance: np.ndarray, n: int) -> float:
    """Listing 1, with slogdet in the place of its overflowing det."""
    dim = len(covariance)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, (1 - np.sqrt(dim / n)) ** 2)
    shrunk = vectors @ np.diag(values) @ vectors.T
    return 0.5 * np.linalg.slogdet(np.eye(dim) + shrunk)[1] / np.log(2)


# --- information amount


def test_information_of_a_diagonal_covariance_has_a_closed_form():
    variances = torch.tensor([3.0, 1.0, 0.0])
    assert IF.information_amount(variances.diag()).item() == pytest.approx(0.5 * (2 + 1 + 0))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_information_equals_slogdet(dtype, tolerance):
    covariance = random_covariances(5, 16)
    expected = [0.5 * np.linalg.slogdet(np.eye(16) + c)[1] / np.log(2) for c in covariance.numpy()]
    got = IF.information_amount(covariance.to(dtype))
    torch.testing.assert_close(got.double(), torch.tensor(expected), rtol=tolerance, atol=0)


@pytest.mark.parametrize("n", [1, 3, 16, 400])
def test_floor_equals_listing_1(n):
    covariance = random_covariances(3, 16)
    expected = [listing_1(c, n) for c in covariance.numpy()]
    got = IF.information_amount(covariance, torch.full((3,), n), shrinkage="floor")
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_floor_measures_rarity_below_n_of_d():
    """The floor alone, D = 128: 432 bits for one sample, 188 for ten, 1.6 for a hundred."""
    n = torch.tensor([1, 10, 100, 20000])
    bits = IF.information_amount(torch.zeros(4, 128, 128), n, shrinkage="floor")
    expected = [64 * math.log2(1 + (1 - math.sqrt(128 / m)) ** 2) for m in n.tolist()]
    torch.testing.assert_close(bits, torch.tensor(expected))
    assert [round(b, 1 if b < 10 else None) for b in expected] == [432, 188, 1.6, 57]


def test_oas_equals_the_published_formula():
    """Chen et al. 2010, eq. (23), of the unbiased covariance, n - 1 degrees."""
    dim, n = 12, 7
    x = np.random.default_rng(0).normal(size=(n, dim)) * np.linspace(0.5, 2, dim)
    s = np.cov(x.T, bias=True)
    unbiased, m = s * n / (n - 1), n - 1
    tr, tr2 = np.trace(unbiased), np.trace(unbiased @ unbiased)
    rho = min(1.0, ((1 - 2 / dim) * tr2 + tr**2) / ((m + 1 - 2 / dim) * (tr2 - tr**2 / dim)))
    shrunk = (1 - rho) * unbiased + rho * tr / dim * np.eye(dim)
    expected = 0.5 * np.linalg.slogdet(np.eye(dim) + shrunk)[1] / np.log(2)
    got = IF.information_amount(torch.tensor(s), torch.tensor(n), shrinkage="oas")
    assert 0 < rho < 1 and got.item() == pytest.approx(expected, rel=1e-12)


def test_oas_leaves_a_multiple_of_the_identity_and_many_samples_alone():
    identity = 3 * torch.eye(8, dtype=torch.float64)
    n = torch.tensor(10**9)
    assert IF.information_amount(identity, n, shrinkage="oas").item() == pytest.approx(8.0)
    covariance = random_covariances(1, 8)
    many = IF.information_amount(covariance, n[None], shrinkage="oas")
    torch.testing.assert_close(many, IF.information_amount(covariance), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shrinkage", IF.SHRINKAGES)
def test_information_of_unseen_extreme_and_broken_classes(shrinkage):
    n = torch.tensor([0, 1, 5, 5, 5])
    covariance = torch.zeros(5, 4, 4)
    covariance[2] = torch.diag(torch.tensor([1e30, 1.0, 1e-30, 0.0]))
    covariance[3, 0, 0] = math.nan
    covariance[4, 1, 1] = math.inf
    bits = IF.information_amount(covariance, n, shrinkage=shrinkage)
    assert bits[:3].isfinite().all() and bits[3:].isnan().all()


def test_information_survives_where_det_overflows_and_rounding_breaks_definiteness():
    assert IF.information_amount(1e6 * torch.eye(1024)).item() == pytest.approx(
        512 * math.log2(1e6), rel=1e-4
    )
    x = torch.tensor([[1.0, 1.0 + 1e-4]]) * 1e6
    assert IF.information_amount(x.T @ x).isfinite()


def test_half_precision_and_wrong_arguments():
    covariance = random_covariances(2, 8)
    half = IF.information_amount(covariance.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), IF.information_amount(covariance), rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="none, floor, oas"):
        IF.information_amount(covariance, shrinkage="oaz")
    with pytest.raises(ValueError, match="num_samples"):
        IF.information_amount(covariance, shrinkage="oas")


# --- normalisation and margins


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


# --- the loss


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


# --- storage


@pytest.mark.parametrize(
    "n, k, length, original, scheme",
    [(55800, 20, 11517, 27.25, 11.87), (605638, 80, 68182, 295.72, 78.29)],
)
def test_worked_storage_examples(n, k, length, original, scheme):
    assert IF.optimal_queue_length(n, 128, k) == length
    megabytes = n * 128 * 4 / 2**20
    assert megabytes == pytest.approx(original, abs=0.005)
    assert IF.storage_ratio(length, n, 128, k) * megabytes == pytest.approx(scheme, abs=0.005)


def test_storage_of_lvis_exceeds_the_original():
    assert IF.storage_ratio(50000, 1_270_000, 128, 1203) == pytest.approx(3.2, abs=0.05)
    assert IF.storage_ratio(50000, 1_270_000, 1024, 1203) == pytest.approx(25, abs=0.3)
