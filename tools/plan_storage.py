#!/usr/bin/env python
"""Says what the information amounts of a data set cost in memory, and draws it by queue length.

    python tools/plan_storage.py --num-instances N --num-classes K [--embedding-dim D]
    python tools/plan_storage.py --dataset NAME_OR_FILE [--embedding-dim D]

Storage is that of one predictor on each GPU. The paper's schemes are counted
as it counts them, embeddings and covariances alone, in 4-byte numbers; this project's with all that
it keeps.
"""

import argparse
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn

from igam_d2.errors import InputError, one_line_errors, os_reason
from igam_d2.functional import optimal_queue_length, storage_ratio
from igam_d2.moments import ClassMoments, EmbeddingQueue
from igam_d2.report.storage_figure import draw_storage

MIB = 2**20


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", help="registered with Detectron2, or a COCO or LVIS file")
    parser.add_argument("--num-instances", type=int, metavar="N", help="of the training set")
    parser.add_argument("--num-classes", type=int, metavar="K", help="without background")
    parser.add_argument(
        "--embedding-dim", type=int, default=128, metavar="D", help="default: %(default)s"
    )
    parser.add_argument(
        "--queue-length", type=int, default=50000, metavar="d", help="default: %(default)s"
    )
    parser.add_argument(
        "--output", type=Path, default="output/storage.png", help="default: %(default)s"
    )
    args = parser.parse_args(argv)
    if any((n is None) == (args.dataset is None) for n in (args.num_instances, args.num_classes)):
        parser.error("give either --dataset, or both --num-instances and --num-classes")
    with one_line_errors():
        plan(args)


def plan(args: argparse.Namespace) -> None:
    n, k, dim, length = args.num_instances, args.num_classes, args.embedding_dim, args.queue_length
    try:
        if args.dataset is not None:
            from igam_d2.data.instances import count_instances  # needs Detectron2

            n, k = count_instances(args.dataset)
        best = optimal_queue_length(n, dim, k)
        storage_ratio(length, n, dim, k)  # refuses a bad length before anything is printed
    except ValueError as error:
        raise InputError(str(error)) from error

    everything = 4 * n * dim
    moments, embedding = bytes_of_moments(k, dim), bytes_of_queue(1, dim)

    def paper(queue_length: int) -> float:
        return storage_ratio(queue_length, n, dim, k) * everything

    def ours(queue_length: int) -> int:
        return moments + queue_length * embedding

    print(f"N = {n:,} instances, K = {k:,} classes, D = {dim:,}\n")
    rows = [("paper, original: all embeddings of an epoch", None, everything)]
    lengths = sorted({length, best})
    rows += [("paper, new: queue, covariances of every filling", d, paper(d)) for d in lengths]
    rows += [("this project: queue, one running merge a class", d, ours(d)) for d in lengths]
    print(storage_table(rows, everything))
    print(f"\nOptimal queue length of the paper's Listing 2: {best:,}")
    print(
        f"This project's moments alone: {moments / MIB:,.2f} MiB at any queue length; per class "
        f"{moments / k / 2**10:,.1f} KiB,\nas much as {moments / k / (4 * dim):,.0f} embeddings, "
        f"where a class has {n / k:,.1f} on average: ratio {moments / everything:,.3f}."
    )
    if ours(length) > everything:
        room = (everything - moments) // embedding
        shorter = f"one of at most {room:,} does not" if room > 0 else "so does any other"
        print(f"With a queue of {length:,} it needs more than all embeddings take; {shorter}.")
    try:
        figure = draw_storage(
            args.output,
            num_instances=n,
            num_classes=k,
            embedding_dim=dim,
            queue_length=length,
            optimal_length=best,
            everything=everything,
            paper=paper,
            ours=ours,
        )
    except OSError as error:
        raise InputError(
            f"--output {str(args.output)!r} cannot be written ({os_reason(error)})."
        ) from error
    print(figure)


def bytes_of_moments(num_classes: int, embedding_dim: int) -> int:
    with torch.device("meta"):  # shapes without memory
        return _bytes(ClassMoments(num_classes, embedding_dim))


def bytes_of_queue(length: int, embedding_dim: int) -> int:
    with torch.device("meta"):
        return _bytes(EmbeddingQueue(length, embedding_dim))


def _bytes(module: nn.Module) -> int:
    return sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())


def storage_table(rows: list[tuple[str, int | None, float]], everything: float) -> str:
    """A line for each (scheme, queue length, bytes), with the ratio to `everything` in bytes."""
    cells = [
        (scheme, "-" if d is None else f"{d:,}", f"{size / MIB:,.2f}", f"{size / everything:,.3f}")
        for scheme, d, size in rows
    ]
    return tabulate(
        cells,
        ("storage", "queue length", "MiB", "ratio"),
        disable_numparse=True,
        colalign=("left", "right", "right", "right"),
    )


if __name__ == "__main__":
    main()
