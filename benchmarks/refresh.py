#!/usr/bin/env python
"""Time and memory of turning the moments of all classes into information amounts.

    python benchmarks/refresh.py [--repeats 3]

Beside it Listing 1 of the paper as printed, class after class in numpy, from the covariance on and
with slogdet instead of det (which gives inf at D = 1024). Of large problems the listing does some
of the classes, and its time is scaled to all.
"""

import argparse
import statistics

import numpy as np
import torch
from measure import devices, interleave, machine, peak_bytes
from tabulate import tabulate

from igam_d2.functional import SHRINKAGES
from igam_d2.moments import ClassMoments

# (K, D, classes that the listing does)
PROBLEMS = ((1203, 128, 1203), (13204, 128, 300), (1203, 1024, 5))


def listing_1(covariances: np.ndarray, num_samples: np.ndarray) -> list[float]:
    bits = []
    for sample_cov, m in zip(covariances, num_samples, strict=True):
        p = len(sample_cov)
        eigvals, eigvecs = np.linalg.eigh(sample_cov)
        floor = (1 - np.sqrt(p / m)) ** 2
        shrunk = np.dot(eigvecs, np.dot(np.diag(np.maximum(eigvals, floor)), eigvecs.T))
        bits.append(0.5 * np.linalg.slogdet(np.eye(p) + shrunk)[1] / np.log(2))
    return bits


def random_moments(num_classes: int, dim: int) -> ClassMoments:
    """Scatters of a decaying spectrum and of long-tailed counts, each of full rank or less."""
    generator = torch.Generator().manual_seed(0)
    moments = ClassMoments(num_classes, dim)
    moments.count.copy_((20000 / torch.arange(1, num_classes + 1)).clamp(min=2).long())
    spectrum = 3 / torch.arange(1, dim + 1).sqrt()
    few = [torch.randn(n, dim, generator=generator) * spectrum for n in (dim // 4, dim, 4 * dim)]
    for k in range(num_classes):
        n, x = moments.count[k], few[k % 3]
        torch.mm(x.T, x, out=moments.scatter[k]).mul_(n / len(x))
    return moments


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    repeats = parser.parse_args().repeats
    for device in devices():
        print(f"{machine(device)}; medians of {repeats} interleaved runs")
        for num_classes, dim, num_listed in PROBLEMS:
            moments = random_moments(num_classes, dim)
            covariances = moments.scatter[:num_listed] / moments.count[:num_listed, None, None]
            covariances, counts = covariances.numpy(), moments.count[:num_listed].numpy()
            moments.to(device)
            functions = {
                name: lambda name=name, moments=moments: moments.information_amount(shrinkage=name)
                for name in SHRINKAGES
                if dim <= 128 or name in ("none", "oas")  # eigenvalues take minutes there
            }
            listed = {"Listing 1": lambda c=covariances, n=counts: listing_1(c, n)}
            times = interleave(functions | listed, repeats, device)
            medians = {name: statistics.median(times[name]) for name in times}
            medians["Listing 1"] *= num_classes / num_listed
            state = sum(b.numel() * b.element_size() for b in moments.buffers())
            print(f"\nK = {num_classes}, D = {dim}; the moments take {state / 2**20:.0f} MiB")
            rows = []
            for name, seconds in medians.items():
                size = peak_bytes(functions[name], device) / 2**20 if name in functions else None
                ratio = medians["Listing 1"] / seconds
                rows.append((name, f"{seconds:.2f}", f"{ratio:.1f}", f"{size:.0f}" if size else ""))
            heads = ("shrinkage", "seconds", "times as fast", "working memory, MiB")
            print(tabulate(rows, heads, disable_numparse=True, colalign=("left", *["right"] * 3)))
            if num_listed < num_classes:
                print(f"Listing 1: {num_listed} classes, scaled to {num_classes}")
            del moments, covariances, functions, listed


if __name__ == "__main__":
    main()
