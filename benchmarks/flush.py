#!/usr/bin/env python
"""Time and memory of moving a full queue of 50,000 embeddings into the moments of 1,203 classes.

    python benchmarks/flush.py [--repeats 5]

Beside it the paper's way, a mean and a covariance of each class and filling that are kept until the
end of the epoch (eq. 7 and 8), which grows with every filling.
"""

import argparse
import statistics

import torch
from measure import devices, interleave, machine, peak_bytes
from tabulate import tabulate

from igam_d2.moments import ClassMoments

QUEUE_LENGTH, DIM, NUM_CLASSES = 50000, 128, 1203


def local_covariances(embeddings, classes):
    kept = []
    for k in range(NUM_CLASSES):
        own = embeddings[classes == k]
        if len(own):
            kept.append((len(own), own.mean(0), torch.cov(own.T, correction=0)))
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    repeats = parser.parse_args().repeats
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(QUEUE_LENGTH, DIM, generator=generator)
    long_tail = 1 / torch.arange(1, NUM_CLASSES + 1)
    classes = torch.multinomial(long_tail, QUEUE_LENGTH, replacement=True, generator=generator)
    for device in devices():
        x, y = embeddings.to(device), classes.to(device)
        moments = ClassMoments(NUM_CLASSES, DIM).to(device)
        functions = {
            "ClassMoments.update": lambda: moments.update(x, y),  # noqa: B023
            "local covariances": lambda: local_covariances(x, y),  # noqa: B023
        }
        times = interleave(functions, repeats, device)
        reference = statistics.median(times["local covariances"])
        rows = [
            (
                name,
                f"{(median := statistics.median(times[name])):.2f}",
                f"{median / reference:.2f}",
                f"{peak_bytes(function, device) / 2**20:.0f}",
            )
            for name, function in functions.items()
        ]
        print(f"{machine(device)}; medians of {repeats} interleaved runs")
        heads = ("", "seconds", "ratio", "memory beyond the state, MiB")
        print(tabulate(rows, heads, disable_numparse=True, colalign=("left", *["right"] * 3)))


if __name__ == "__main__":
    main()
