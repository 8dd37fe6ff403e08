#!/usr/bin/env python
"""Bias of the estimates of a class's information amount against the number of its embeddings.

    python benchmarks/estimator_bias.py [--information 21.1] [--counts 2 3 5 ...] [--draws 20]

Gaussian embeddings of three spectra, each scaled to the same true information amount
1/2 log2 det(1 + S): an estimate that is free of n gives that for every n. And populations of
classes whose true amounts have nothing to do with their numbers of embeddings, those of images that
LVIS v1's classes have: an estimate that measures information follows the one and not the other.
Writes table.md, table.json and bias.png into the folder of --output.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from study.estimator_page import figure, markdown
from torch import Tensor

from igam_d2.errors import InputError, TransientError, one_line_errors, os_reason
from igam_d2.files import write_json, write_whole
from igam_d2.functional import SHRINKAGES, information_amount

__all__ = ["SPECTRA", "estimates", "figure", "markdown", "simulate"]

# Place i of D from 1 -> the i-th largest variance, but for a factor. The estimates turn with the
# axes, so that variances along them are as good as any covariance.
SPECTRA: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray]]] = {
    "flat": ("all alike", lambda i, dim: np.ones(dim)),
    "decaying": ("exp(-10 i / D)", lambda i, dim: np.exp(-10 * i / dim)),
    "steep": ("1 / i^2", lambda i, dim: i**-2.0),
}
MIXED = "mixed"  # a population with classes of each
# Of them 128 is the default D, where Ledoit and Peche's theory has a gap
COUNTS = (2, 3, 5, 10, 20, 50, 100, 128, 200, 300, 500, 1000, 3000, 10000, 20000)
BLOCK = 10000  # embeddings drawn at a time


def simulate(
    *,
    embedding_dim: int = 128,
    information: float = 21.1,
    counts: Sequence[int] = COUNTS,
    draws: int = 20,
    num_classes: int = 300,
    information_range: tuple[float, float] = (5.0, 60.0),
    populations: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """What the estimates give at equal truth, and over populations of classes.

    Args:
        information: true bits of every spectrum.
        counts: numbers of embeddings, at least 2.
        draws: samples of each number; the spectra share them.
        num_classes: of a population; their counts are drawn from LVIS v1's numbers of images, those
            of at least 2.
        information_range: of their true bits, log-uniform and independent of the counts.
        populations: how many.

    Raises:
        InputError: a number that is too small.
    """
    for name, value, least in (
        ("--embedding-dim", embedding_dim, 2),
        ("--counts", min(counts, default=0), 2),
        ("--draws", draws, 2),
        ("--classes", num_classes, 4),
        ("--populations", populations, 2),
        ("--seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{name} is {value}: it must be at least {least}.")
    if not 0 < information < np.inf:
        raise InputError(f"--information is {information}: it must be positive.")
    rng = np.random.default_rng(seed)
    return {
        "embedding_dim": embedding_dim,
        "information": float(information),
        "counts": list(counts),
        "draws": draws,
        "seed": seed,
        "spectra": _at_equal_truth(rng, embedding_dim, information, counts, draws),
        "population": {
            "num_classes": num_classes,
            "information_range": list(information_range),
            "populations": populations,
            "spearman": _populations(
                rng, embedding_dim, num_classes, information_range, populations
            ),
        },
    }


def estimates(covariances: Tensor, num_samples: Tensor) -> dict[str, np.ndarray]:
    """Each estimate (M,) of covariances (M, D, D) from so many (M,) embeddings."""
    return {
        name: information_amount(covariances, num_samples, shrinkage=name).cpu().numpy()
        for name in SHRINKAGES
    }


def scaled(shape: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """(D,), (C,) -> (C, D): the spectrum times what gives it so many bits, by bisection."""
    low, high = np.full(len(bits), -100.0), np.full(len(bits), 400.0)
    for _ in range(80):
        middle = (low + high) / 2
        found = 0.5 * np.log1p(np.exp(middle)[:, None] * shape).sum(1) / np.log(2)
        low, high = np.where(found < bits, middle, low), np.where(found < bits, high, middle)
    return np.exp(high)[:, None] * shape


def _spectrum(name: str, dim: int) -> np.ndarray:
    return SPECTRA[name][1](np.arange(1, dim + 1, dtype=np.float64), dim)


def _unit_covariances(rng: np.random.Generator, counts: Sequence[int], dim: int) -> np.ndarray:
    """(M, D, D) about the sample mean, of standard normal samples of these sizes (M,)."""
    covariances = np.empty((len(counts), dim, dim))
    for covariance, n in zip(covariances, counts, strict=True):
        total, products = np.zeros(dim), np.zeros((dim, dim))
        for start in range(0, n, BLOCK):
            x = rng.standard_normal((min(BLOCK, n - start), dim))
            total += x.sum(0)
            products += x.T @ x
        covariance[:] = products / n - np.outer(total / n, total / n)
    return covariances


def _estimated(
    unit: np.ndarray, spectra: np.ndarray, counts: Sequence[int]
) -> dict[str, np.ndarray]:
    """Estimates (M,) of unit covariances (M, D, D), their axes scaled to spectra (M or 1, D)."""
    deviations = np.sqrt(spectra)
    covariances = unit * deviations[:, :, None] * deviations[:, None, :]
    return estimates(torch.from_numpy(covariances), torch.tensor(counts))


def _at_equal_truth(
    rng: np.random.Generator, dim: int, information: float, counts: Sequence[int], draws: int
) -> dict[str, Any]:
    spectra = {name: scaled(_spectrum(name, dim), np.array([information])) for name in SPECTRA}
    found = {
        name: {
            "formula": SPECTRA[name][0],
            "largest": float(spectrum.max()),
            "smallest": float(spectrum.min()),
            "trace": float(spectrum.sum()),
            "estimates": {key: {"mean": [], "std": [], "bias": []} for key in SHRINKAGES},
        }
        for name, spectrum in spectra.items()
    }
    for n in counts:
        unit = _unit_covariances(rng, [n] * draws, dim)
        for name, spectrum in spectra.items():
            for key, bits in _estimated(unit, spectrum, [n] * draws).items():
                record = found[name]["estimates"][key]
                record["mean"].append(float(bits.mean()))
                record["std"].append(float(bits.std(ddof=1)))
                record["bias"].append(float(bits.mean() - information))
    return found


def _populations(
    rng: np.random.Generator, dim: int, num_classes: int, bits: tuple[float, float], number: int
) -> dict[str, Any]:
    """Population -> estimate -> "information", "count" -> Spearman's correlations, by what names
    them; the truth comes last, as an estimate without an error.
    """
    from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

    pool = np.array([entry["image_count"] for entry in LVIS_CATEGORY_IMAGE_COUNT])
    pool = pool[pool >= 2]
    values: dict = {
        name: {key: {"information": [], "count": []} for key in (*SHRINKAGES, "truth")}
        for name in (*SPECTRA, MIXED)
    }
    for _ in range(number):
        truth = np.exp(rng.uniform(*np.log(bits), num_classes))
        counts = rng.choice(pool, num_classes)
        kinds = rng.integers(len(SPECTRA), size=num_classes)
        unit = _unit_covariances(rng, counts.tolist(), dim)
        found = {
            name: _estimated(unit, scaled(_spectrum(name, dim), truth), counts) | {"truth": truth}
            for name in SPECTRA
        }
        found[MIXED] = {
            key: np.choose(kinds, [found[name][key] for name in SPECTRA])
            for key in (*SHRINKAGES, "truth")
        }
        for name, of in found.items():
            for key, estimated in of.items():
                for what, other in (("information", truth), ("count", counts)):
                    rho = float(stats.spearmanr(estimated, other).statistic)
                    values[name][key][what].append(rho)
    return {
        name: {
            key: {
                what: {
                    "values": rho,
                    "mean": float(np.mean(rho)),
                    "std": float(np.std(rho, ddof=1)),
                }
                for what, rho in of.items()
            }
            for key, of in entry.items()
        }
        for name, entry in values.items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embedding-dim", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--information", type=float, default=21.1, help="default: %(default)s")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), metavar="N")
    parser.add_argument("--draws", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--populations", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output") / "estimator_bias")
    args = parser.parse_args(argv)
    with one_line_errors():
        result = simulate(
            embedding_dim=args.embedding_dim,
            information=args.information,
            counts=sorted(set(args.counts)),
            draws=args.draws,
            num_classes=args.classes,
            populations=args.populations,
            seed=args.seed,
        )
        page = markdown(result)
        try:
            args.output.mkdir(parents=True, exist_ok=True)
            write_json(args.output / "table.json", result)
            write_whole(args.output / "table.md", lambda f: f.write(page.encode()))
            figure(result, args.output / "bias.png")
        except OSError as error:
            raise TransientError(
                f"{str(args.output)!r} could not be written ({os_reason(error)})."
            ) from error
        print(page)


if __name__ == "__main__":
    main()
