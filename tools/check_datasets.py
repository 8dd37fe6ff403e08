#!/usr/bin/env python
"""Says what of the data sets is there, what is missing, and where to get that.

    python tools/check_datasets.py [lvis_v1] [coco_lt] [voc] ... [--root datasets]

Without a name: all sets that a config names. Folders are listed, and JSON files opened at their end
alone: what a file of COCO-LT holds is for `python tools/prepare_coco_lt.py check`. The exit status
is 0 if all is there, 1 if something is missing, 2 if a name or the folder is wrong.
"""

import argparse
import os
import sys
from pathlib import Path

from tabulate import tabulate

from igam_d2.data.dataset_tree import CONFIGURED, DATASET_TREES, Finding, check_tree, tree_of
from igam_d2.errors import InputError, one_line_errors


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", nargs="*", help=f"of {', '.join(DATASET_TREES)} (default: {', '.join(CONFIGURED)})"
    )
    parser.add_argument(
        "--root",
        default=os.getenv("DETECTRON2_DATASETS", "datasets"),
        help="folder of all data sets (default: $DETECTRON2_DATASETS, or datasets)",
    )
    args = parser.parse_args(argv)
    root = Path(args.root).expanduser()
    with one_line_errors():
        trees = {name: tree_of(name) for name in args.name or CONFIGURED}
        if root.exists() and not root.is_dir():
            raise InputError(f"--root is {str(root)!r}, a file: give the folder of all data sets.")

    print(f"below {root}{'' if root.is_dir() else ', which does not exist'}:")
    incomplete = []
    for name, places in trees.items():
        findings = check_tree(places, root)
        print(f"\n{name}\n{table(findings)}")
        to_do = {f.place.how_to_get: None for f in findings if f.state != "ok"}  # each once
        for step in to_do:
            print(f"  -> {step.format(root=root)}")
        if to_do:
            incomplete.append(name)
    if incomplete:
        sys.exit(f"\nincomplete: {', '.join(incomplete)}; datasets/README.md has the whole tree")
    print("\nall is there")


def table(findings: list[Finding]) -> str:
    def number(value: int | None) -> str:
        return "" if value is None else f"{value:,}"

    rows = [(f.place.path, f.state, number(f.found), number(f.place.expected)) for f in findings]
    return tabulate(
        rows,
        ("path", "state", "found", "full set"),
        disable_numparse=True,
        colalign=("left", "left", "right", "right"),
    )


if __name__ == "__main__":
    main()
