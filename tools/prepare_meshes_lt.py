#!/usr/bin/env python
"""Makes the data set Meshes-LT, packs it into one file, checks it, and unpacks it elsewhere.

    python tools/prepare_meshes_lt.py make [--num-classes K] [--num-train-images N] [...]
    python tools/prepare_meshes_lt.py show FOLDER PICTURE.jpg
    python tools/prepare_meshes_lt.py pack FILE.tar
    python tools/prepare_meshes_lt.py check FOLDER_OR_TAR
    python tools/prepare_meshes_lt.py unpack FILE.tar

`make` renders object meshes over photographs, with LVIS's long tail, which is random with regard to
the meshes. It needs no download, but pybullet: `pip install igam_d2[bench]`, Python 3.11 on Linux
x86-64. The same options give the same bytes, whatever --jobs is; a set that is there is not made
again, and one of other options is never replaced. `make --help` shows the options.

`show` draws images with their objects. `pack`, `check` and `unpack` need no pybullet. `check`
verifies the sums, that nothing is missing and that annotations and images agree; the exit status
is 2 and one sentence says what is wrong, if something is.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path

from igam_d2.data.meshes_lt import make_meshes_lt
from igam_d2.data.meshes_lt_pack import check_set, pack_set, unpack_set
from igam_d2.data.meshes_lt_plan import SPLITS, Parameters
from igam_d2.errors import InputError, one_line_errors, os_reason

HELP = {
    "name": "of the set, its folder and files",
    "num_classes": "10 to 999, the meshes that can be drawn",
    "num_train_images": "images to train on",
    "image_size": "side of the images in pixels",
    "classes_per_image": "on average",
    "eval_images": "images of selection, and of test, that each class is in",
    "seed": "of everything random",
}


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with one_line_errors():
        try:
            args.run(args)
        except OSError as error:
            written = args.root if args.command in ("make", "unpack") else args.file
            path = error.filename or written  # a full disk has no name
            raise InputError(f"{str(path)!r} cannot be used ({os_reason(error)}).") from error


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="render a set")
    show = commands.add_parser("show", help="draw images of a set with their objects")
    pack = commands.add_parser("pack", help="write a set into a tar file")
    check = commands.add_parser("check", help="check a set, packed or not")
    unpack = commands.add_parser("unpack", help="check a packed set and put it below the root")
    runs = {make: _make, show: _show, pack: _pack, check: _check, unpack: _unpack}
    for command, run in runs.items():
        command.set_defaults(run=run)
    for command in (make, pack, unpack):
        command.add_argument(
            "--root",
            default=os.getenv("DETECTRON2_DATASETS", "datasets"),
            help="folder of all data sets (default: $DETECTRON2_DATASETS, or datasets)",
        )
    for field in fields(Parameters):
        for command in (make, pack) if field.name == "name" else (make,):
            command.add_argument(
                "--" + field.name.replace("_", "-"),
                type=type(field.default),
                default=field.default,
                help=f"{HELP[field.name]} (default: {field.default})",
            )
    make.add_argument("--jobs", type=int, help="processes (default: one a core)")
    show.add_argument("folder", type=Path, metavar="FOLDER")
    show.add_argument("file", type=Path, metavar="PICTURE.jpg")
    show.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    pack.add_argument("file", type=Path, metavar="FILE.tar")
    check.add_argument("file", type=Path, metavar="FOLDER_OR_TAR")
    unpack.add_argument("file", type=Path, metavar="FILE.tar")
    return parser


def _make(args: argparse.Namespace) -> None:
    start = time.monotonic()
    paths = make_meshes_lt(
        _expanded(args.root),
        jobs=args.jobs,
        progress=lambda line: print(line, flush=True),
        **{field.name: getattr(args, field.name) for field in fields(Parameters)},
    )
    data = {split: json.loads(paths[f"{split}_json"].read_text()) for split in SPLITS}
    instances = {s: Counter(a["category_id"] for a in data[s]["annotations"]) for s in SPLITS}
    row = "{:<10} {:>7} {:>12} {:>15} {:>19} {:>14}"
    print(row.format("frequency", "classes", "train images", "train instances", *(
        f"{split} instances" for split in SPLITS[1:]
    )))  # fmt: skip
    categories = data["train"]["categories"]
    for group in "fcr":
        mine = [category for category in categories if category["frequency"] == group]
        counts = [category["image_count"] for category in mine]
        sums = (sum(instances[s][category["id"]] for category in mine) for s in SPLITS)
        between = f"{min(counts)} to {max(counts)}" if counts else "-"
        print(row.format(group, len(mine), between, *sums))
    rho, low, high = json.loads(paths["diversity"].read_text())["spearman_with_image_count"]
    print(
        "Spearman's correlation of the classes' visual diversity with their image counts: "
        f"{rho:.2f}, 95% interval {low:.2f} to {high:.2f}"
    )
    sizes = ", ".join(f"{len(data[split]['images']):,} {split}" for split in SPLITS)
    print(f"{sizes} images in {paths['root']}, {time.monotonic() - start:.0f} s")


def _show(args: argparse.Namespace) -> None:
    from igam_d2.data.meshes_lt_sheet import draw_sheet  # OpenCV, which the others do not need

    draw_sheet(args.folder.expanduser(), args.file.expanduser(), split=args.split)
    print(args.file)


def _pack(args: argparse.Namespace) -> None:
    print(pack_set(_expanded(args.root) / args.name, args.file.expanduser()))
    print(f"packed in {args.file}, {args.file.expanduser().stat().st_size / 1e6:.1f} MB")


def _check(args: argparse.Namespace) -> None:
    print(check_set(args.file.expanduser()))


def _unpack(args: argparse.Namespace) -> None:
    folder, summary = unpack_set(args.file.expanduser(), _expanded(args.root))
    print(f"{summary}\nin {folder}")


def _expanded(root: str) -> Path:
    return Path(root).expanduser()


if __name__ == "__main__":
    # As Ctrl-C does: nothing half made is left behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
