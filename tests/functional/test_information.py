"""Information amounts against naive float64 loops and closed forms."""

import math

import numpy as np
import pytest
import torch

from igam_d2 import functional as IF
from igam_d2.functional.information import _ledoit_peche


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


def naive_ledoit_peche(values: list[float], n: int) -> list[float]:
    """Ledoit and Wolf (2020), one pair of eigenvalues after another; ascending values."""
    dim = len(values)
    kept = values[max(0, dim - n) :]
    h = n ** (-1 / 3)
    shrunk = []
    for value in kept:
        density = hilbert = 0.0
        for centre in kept:
            x = (value - centre) / (h * centre)
            density += 3 / (4 * math.sqrt(5)) * max(1 - x * x / 5, 0) / (h * centre)
            term = -3 * x / (10 * math.pi)
            if abs(x) != math.sqrt(5):
                log = math.log(abs((math.sqrt(5) - x) / (math.sqrt(5) + x)))
                term += 3 / (4 * math.sqrt(5) * math.pi) * (1 - x * x / 5) * log
            hilbert += term / (h * centre)
        density, hilbert = density / len(kept), hilbert / len(kept)
        if dim <= n:
            real = 1 - dim / n - math.pi * dim / n * value * hilbert
            shrunk.append(value / ((math.pi * dim / n * value * density) ** 2 + real**2))
        else:
            shrunk.append(1 / (math.pi**2 * value * (density**2 + hilbert**2)))
    if dim > n:
        log = math.log((1 + math.sqrt(5) * h) / (1 - math.sqrt(5) * h))
        at_zero = 3 / (10 * h**2) + 3 / (4 * math.sqrt(5) * h) * (1 - 1 / (5 * h**2)) * log
        at_zero *= sum(1 / value for value in kept) / len(kept) / math.pi
        shrunk = [1 / (math.pi * (dim - n) / n * at_zero)] * (dim - n) + shrunk
    return shrunk


def sample(spectrum: np.ndarray, n: int) -> np.ndarray:
    """(n, D) normal data whose covariance is diagonal."""
    return np.random.default_rng(0).normal(size=(n, len(spectrum))) * np.sqrt(spectrum) + 5


@pytest.mark.parametrize("n", [13, 20, 24, 25, 26, 100])  # D = 24 on either side
def test_ledoit_peche_equals_the_formula_in_a_loop(n):
    x = sample(np.linspace(0.1, 4, 24), n)
    values = np.linalg.eigvalsh(np.cov(x.T))
    expected = sum(0.5 * math.log2(1 + v) for v in naive_ledoit_peche(values.tolist(), n - 1))
    covariance = torch.tensor(np.cov(x.T, bias=True))
    got = IF.information_amount(covariance, torch.tensor(n), shrinkage="ledoit_peche")
    assert got.item() == pytest.approx(expected, rel=1e-6)  # n = 25, D + 1, is unstable
    single = IF.information_amount(covariance.float(), torch.tensor(n), shrinkage="ledoit_peche")
    assert single.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n", [150, 600])
def test_ledoit_peche_recovers_known_spectra(n):
    """D = 300: a multiple of the identity to a few per cent, and the oracle u' Sigma u of two
    levels, from which the sample eigenvalues are several times as far.
    """
    dim = 300
    for spectrum in (np.full(dim, 2.0), np.repeat([1.0, 8.0], dim // 2)):
        values, vectors = np.linalg.eigh(np.cov(sample(spectrum, n).T))
        oracle = (vectors**2 * spectrum[:, None]).sum(0)
        shrunk = _ledoit_peche(torch.tensor(values).clamp(min=0), torch.tensor(n - 1.0)).numpy()
        # The eigenvectors of the eigenvalue zero are any basis of their space: its mean counts.
        null = max(0, dim - (n - 1))
        oracle[:null] = oracle[:null].mean() if null else 0
        error = np.abs(shrunk - oracle).sum()
        naive = np.abs(values - oracle).sum()
        assert error < 0.06 * oracle.sum() and error < naive / 4


@pytest.mark.parametrize("n", [64, 300])  # D = 64: the spectrum's tail is far from every kernel
def test_ledoit_peche_of_a_spectrum_over_many_orders_of_magnitude(n):
    spectrum = 100 * np.exp(-np.arange(64) / 3)
    truth = 0.5 * np.log2(1 + spectrum).sum()
    covariance = torch.tensor(np.cov(sample(spectrum, n).T, bias=True))
    got = IF.information_amount(covariance, torch.tensor(n), shrinkage="ledoit_peche")
    assert got.item() == pytest.approx(truth, rel=0.05)


def test_ledoit_peche_of_few_or_equal_samples():
    covariance = random_covariances(3, 8)
    n = torch.tensor([2, 12, 12])
    oas = IF.information_amount(covariance, n, shrinkage="oas")
    few = IF.information_amount(covariance, n, shrinkage="ledoit_peche")
    torch.testing.assert_close(few, oas)
    constant = IF.information_amount(
        torch.zeros(2, 8, 8), torch.tensor([5, 50]), shrinkage="ledoit_peche"
    )
    assert (constant == 0).all()


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
