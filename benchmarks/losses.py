#!/usr/bin/env python
"""Time and saved memory of every classification loss, forward and backward, over softmax CE.

    python benchmarks/losses.py [--rows 2048] [--classes 1203] [--foreground 0.25] [--limit 4]

From ready scores, embeddings and classifier rows to their gradients, in training mode and after a
few steps. The losses take turns. With --limit the exit status is 1 if a loss takes more times as
long as softmax CE.
"""

import argparse
import math
import statistics
import sys

import torch
from measure import devices, interleave, machine, ratio_interval, saved_bytes
from tabulate import tabulate
from torch import Tensor

from igam_d2.losses import CLS_LOSS_REGISTRY, ClsLoss

REFERENCE = "SoftmaxCELoss"
DIM, ROIS_PER_IMAGE = 128, 512
NUM_IMAGES, MOST_INSTANCES = 100_170, 50_000  # of LVIS v1's training set
WARM_UP_STEPS = 3
TOO_MANY = 4.0  # times softmax CE's time


def loss_context(num_classes: int, generator: torch.Generator) -> dict:
    """What a loss may ask for, of a data set with a tail like that of LVIS."""
    rank = torch.randperm(num_classes, generator=generator) / max(num_classes - 1, 1)
    instances = (MOST_INSTANCES ** rank.double()).round().long()  # geometric, from 1 on
    images = (instances + 1) // 2
    return {
        "num_classes": num_classes,
        "embedding_dim": DIM,
        "normalization": "mean",
        "class_instance_count": instances,
        "class_image_count": images,
        "num_images": NUM_IMAGES,
        "class_frequency": ["r" if n <= 10 else "c" if n <= 100 else "f" for n in images.tolist()],
    }


def rois(num_rois: int, context: dict, foreground: float, generator: torch.Generator) -> Tensor:
    """gt_classes (R,) as the sampler gives them: in each image those of the foreground first."""
    counts = context["class_instance_count"].double()
    classes = torch.multinomial(counts, num_rois, replacement=True, generator=generator)
    first = torch.arange(num_rois) % ROIS_PER_IMAGE < foreground * ROIS_PER_IMAGE
    return classes.where(first, context["num_classes"])


class Case:
    """A loss in training mode and what it is given; a call is forward and backward."""

    def __init__(self, name: str, context: dict, gt_classes: Tensor):
        kind = CLS_LOSS_REGISTRY.get(name)
        generator = torch.Generator().manual_seed(0)
        self.loss: ClsLoss = kind(**kind.asks(context)).train()
        num_rois, num_outputs = len(gt_classes), self.loss.num_outputs
        scores = torch.randn(num_rois, num_outputs, generator=generator)
        if self.loss.classifier == "cosine":
            scores = (scores / 4).clamp(-0.999, 0.999)
        self.scores = scores.requires_grad_()
        self.embeddings = torch.randn(num_rois, DIM, generator=generator).requires_grad_()
        class_weight = torch.randn(num_outputs, DIM, generator=generator) / math.sqrt(DIM)
        self.class_weight = torch.nn.Parameter(class_weight)
        self.gt_classes = gt_classes
        information = 5 + 10 * torch.rand(context["num_classes"], generator=generator)
        self.loss.set_information(information)

    def to(self, device: str) -> "Case":
        self.loss.to(device)
        self.scores = self.scores.detach().to(device).requires_grad_()
        self.embeddings = self.embeddings.detach().to(device).requires_grad_()
        self.class_weight = torch.nn.Parameter(self.class_weight.detach().to(device))
        self.gt_classes = self.gt_classes.to(device)
        return self

    def forward(self, sample_weight: Tensor | None = None) -> Tensor:
        parts = self.loss(
            self.scores,
            self.gt_classes,
            embeddings=self.embeddings,
            class_weight=self.class_weight,
            sample_weight=sample_weight,
        )
        return sum(parts.values())

    def __call__(self):
        self.scores.grad = self.embeddings.grad = self.class_weight.grad = None
        self.loss.zero_grad()
        self.forward().backward()


def measure(
    num_rois: int, num_classes: int, foreground: float, repeats: int, device: str
) -> dict[str, tuple[float, tuple[float, float, float], float]]:
    """Of each loss: ms, its ratio and the ends of the interval, ratio of the saved memory."""
    generator = torch.Generator().manual_seed(0)
    context = loss_context(num_classes, generator)
    gt_classes = rois(num_rois, context, foreground, generator)
    names = [REFERENCE, *(name for name, _ in CLS_LOSS_REGISTRY if name != REFERENCE)]
    cases = {name: Case(name, context, gt_classes).to(device) for name in names}
    for case in cases.values():
        for _ in range(WARM_UP_STEPS):
            case()
    times = interleave(cases, repeats, device)
    saved = {name: saved_bytes(case.forward) for name, case in cases.items()}
    return {
        name: (
            1e3 * statistics.median(times[name]),
            ratio_interval(times[name], times[REFERENCE]),
            saved[name] / saved[REFERENCE],
        )
        for name in names
    }


def table(results: dict[str, dict]) -> str:
    """The measurements of each device side by side."""
    heads, rows = ["loss"], {}
    for device, measured in results.items():
        heads += [f"{device}, ms", "ratio", "its 95% interval", "saved"]
        for name, (ms, (ratio, low, high), saved) in measured.items():
            cells = [f"{ms:.3g}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", f"{saved:.2f}"]
            rows.setdefault(name, [name]).extend(cells)
    align = ["left", *["right"] * (len(heads) - 1)]
    return tabulate(list(rows.values()), heads, disable_numparse=True, colalign=align)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048, help="RoIs (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1203, help="default: %(default)s")
    parser.add_argument(
        "--foreground", type=float, default=0.25, help="share of the RoIs (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=31, help="default: %(default)s")
    parser.add_argument(
        "--limit", type=float, metavar="RATIO", help="exit status 1 if a median ratio is above"
    )
    args = parser.parse_args(argv)
    size = (args.rows, args.classes, args.foreground, args.repeats)
    print("; ".join(machine(device) for device in devices()))
    print(
        f"R = {args.rows}, K = {args.classes}, {args.foreground:.0%} foreground; medians of "
        f"{args.repeats} interleaved runs; {REFERENCE} = 1, also of what is saved for backward\n"
    )
    results = {device: measure(*size, device) for device in devices()}
    print(table(results))
    limit = TOO_MANY if args.limit is None else args.limit
    ratios = {
        f"{name} on {device}": ratio
        for device, measured in results.items()
        for name, (_, (ratio, _, _), _) in measured.items()
    }
    above = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio > limit]
    named = f": {', '.join(above)}" if above else ""
    print(f"\n{len(above)} of {len(ratios)} above {limit:g} times {REFERENCE}{named}")
    return int(args.limit is not None and bool(above))


if __name__ == "__main__":
    sys.exit(main())
