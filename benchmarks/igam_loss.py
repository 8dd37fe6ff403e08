#!/usr/bin/env python
"""Time and saved memory of the IGAM loss, forward and backward, beside what it replaces.

    python benchmarks/igam_loss.py [--repeats 41]

"Loss" goes from scores to their gradient; "step" from embeddings through the classifier (D = 128)
to the gradients of both. Foreground rows come first in each image of 512 RoIs, as in training.
"""

import argparse
import math
import statistics

import torch
import torch.nn.functional as F
from measure import devices, interleave, machine, saved_bytes
from tabulate import tabulate

from igam_d2.functional import (
    igam_loss,
    margin_potentials,
    normalize_information,
    pairwise_margins,
)

SCALE, DIM, ROIS_PER_IMAGE = 30.0, 128, 512


def textbook_loss(cosine, gt_classes, margins):
    """Eq. (6) with all margins in a (K + 1, K + 1) matrix."""
    angle = (cosine.acos() + margins[gt_classes]).clamp(max=math.pi)
    return F.cross_entropy(SCALE * angle.cos(), gt_classes)


def losses_for(potentials):
    margins = F.pad(pairwise_margins(potentials), (0, 1, 0, 1))
    return {
        "linear CE": F.cross_entropy,
        "cosine CE": lambda scores, y: F.cross_entropy(SCALE * scores, y),
        "IGAM, textbook": lambda scores, y: textbook_loss(scores, y, margins),
        "IGAM, igam_loss": lambda scores, y: igam_loss(scores, y, potentials, scale=SCALE),
    }


def classify(name, embeddings, weight):
    if name == "linear CE":
        return F.linear(embeddings, weight)
    return F.linear(F.normalize(embeddings), F.normalize(weight)).clamp(-1 + 1e-6, 1 - 1e-6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=41, help="default: %(default)s")
    repeats = parser.parse_args().repeats
    for device in devices():
        print(f"{machine(device)}; medians of {repeats} interleaved runs, cosine CE = 1")
        for num_rois, num_classes in ((2048, 1203), (512, 13204)):
            for background in (0.75, 0.0):
                print(f"\nR = {num_rois}, K = {num_classes}, {background:.0%} background")
                print(compare(num_rois, num_classes, background, repeats, device))


def compare(num_rois, num_classes, background, repeats, device) -> str:
    generator = torch.Generator().manual_seed(0)
    information = 5 + 10 * torch.rand(num_classes, generator=generator)
    potentials = margin_potentials(normalize_information(information, reading="mean")).to(device)
    gt_classes = torch.randint(num_classes, (num_rois,), generator=generator)
    foreground = torch.arange(num_rois) % ROIS_PER_IMAGE < (1 - background) * ROIS_PER_IMAGE
    gt_classes = gt_classes.where(foreground, num_classes).to(device)
    cosine = 0.25 * torch.randn(num_rois, num_classes + 1, generator=generator)
    scores = cosine.clamp(-0.999, 0.999).to(device).requires_grad_()
    embeddings = torch.randn(num_rois, DIM, generator=generator).to(device).requires_grad_()
    weight = torch.randn(num_classes + 1, DIM, generator=generator).to(device)
    weight = torch.nn.Parameter(weight)
    losses = losses_for(potentials)

    def loss_of(name):
        return lambda: losses[name](scores, gt_classes)

    def step_of(name):
        return lambda: losses[name](classify(name, embeddings, weight), gt_classes)

    columns = []
    for forward in (loss_of, step_of):

        def run(name, forward=forward):
            def both():
                scores.grad = embeddings.grad = weight.grad = None
                forward(name)().backward()

            return both

        times = interleave({name: run(name) for name in losses}, repeats, device)
        medians = {name: statistics.median(times[name]) for name in losses}
        memory = {name: saved_bytes(forward(name)) for name in losses}
        for values, unit, form in ((medians, 1e3, "{:.2f}"), (memory, 2**-20, "{:.1f}")):
            reference = values["cosine CE"]
            columns.append([form.format(value * unit) for value in values.values()])
            columns.append([f"{value / reference:.2f}" for value in values.values()])
    heads = ("", "loss, ms", "ratio", "saved MiB", "ratio")
    heads += ("step, ms", "ratio", "saved MiB", "ratio")
    return tabulate(
        list(zip(losses, *columns, strict=True)), heads, disable_numparse=True,
        colalign=("left", *["right"] * 8),
    )  # fmt: skip


if __name__ == "__main__":
    main()
