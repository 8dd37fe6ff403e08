#!/usr/bin/env python
"""Checks SimCal's file of COCO-LT, or draws a set with the same counts where it cannot be had.

    python tools/prepare_coco_lt.py check [FILE]
    python tools/prepare_coco_lt.py rebuild [--seed N] [--source FILE] [--output FILE]

`check` compares classes, images, instances and group sizes; the exit status is 0 if all
agree, 1 if not, 2 if there is no such file.
`rebuild` draws from COCO's instances_train2017.json, in about a minute and 4 GB. What it writes is
not SimCal's set, has another name and says so.
"""

import argparse
import os
import sys
from pathlib import Path

from tabulate import tabulate

from igam_d2.data.coco_lt import (
    COCO_LT,
    ORIGINAL,
    REBUILT,
    Summary,
    coco_lt_path,
    differences,
    quantities,
)
from igam_d2.data.coco_lt_file import rebuild_file
from igam_d2.errors import InputError, one_line_errors


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="compare a file with what COCO-LT holds")
    check.add_argument("file", nargs="?", type=Path, help=f"default: coco_lt/{ORIGINAL} below root")
    rebuild = commands.add_parser("rebuild", help="draw another set with the same counts")
    rebuild.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    rebuild.add_argument(
        "--source", type=Path, help="default: coco/annotations/instances_train2017.json below root"
    )
    rebuild.add_argument("--output", type=Path, help=f"default: coco_lt/{REBUILT} below root")
    for command in (check, rebuild):
        command.add_argument(
            "--root",
            type=Path,
            default=os.getenv("DETECTRON2_DATASETS", "datasets"),
            help="folder of all data sets (default: $DETECTRON2_DATASETS, or datasets)",
        )
    args = parser.parse_args(argv)
    root = args.root.expanduser()
    with one_line_errors():
        if args.command == "check":
            run_check(args.file or coco_lt_path(ORIGINAL, root))
        else:
            source = args.source or root / "coco" / "annotations" / "instances_train2017.json"
            run_rebuild(source, args.output or coco_lt_path(REBUILT, root), args.seed)


def run_check(path: Path) -> None:
    if not path.is_file():
        raise InputError(
            f"{path} is missing: get it by the link in the README of "
            "https://github.com/twangnh/SimCal, or make another by `rebuild`."
        )
    summary = Summary.of_file(path)
    print(table(summary))
    if summary.num_listed != summary.counts.images:
        without = summary.num_listed - summary.counts.images
        print(f"{without:,} more images have no annotation: training leaves them out.")
    different = differences(summary, name=path.name)
    if different:
        sys.exit(f"error: {path} is not COCO-LT: it has {', '.join(different)}.")
    print(f"note: {summary.rebuilt}" if summary.rebuilt else f"{path} has the counts of COCO-LT.")


def run_rebuild(source: Path, output: Path, seed: int) -> None:
    if output.name == ORIGINAL:
        raise InputError(
            f"--output is {str(output)!r}, the name of SimCal's own file: give another, such as "
            f"{REBUILT}."
        )
    summary = rebuild_file(source, output, seed=seed, progress=lambda line: print(line, flush=True))
    print(table(summary))
    print(f"{output}\n{summary.rebuilt}")
    different = differences(summary)
    if different:
        print(f"What could not be reached with this source: {', '.join(different)}.")
    print("Train on it with DATASETS.TRAIN \"('coco_lt_rebuilt_train',)\".")


def table(summary: Summary) -> str:
    found, plain = quantities(summary.counts), quantities(summary.counts_without_crowd)
    rows = [
        (name, f"{expected:,}", f"{found[name]:,}", f"{plain[name]:,}")
        for name, expected in quantities(COCO_LT).items()
    ]
    return tabulate(
        rows,
        ("", "COCO-LT", "found", "without crowd regions"),
        disable_numparse=True,
        colalign=("left", "right", "right", "right"),
    )


if __name__ == "__main__":
    main()
