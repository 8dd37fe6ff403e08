"""Makes the demo data set Digits-LT and prints its long tail.

python tools/prepare_digits_lt.py [--root datasets] [--seed 0]
"""

import argparse
import json
import os
from collections import Counter

from igam_d2.data.digits_lt import make_digits_lt
from igam_d2.errors import InputError, one_line_errors, os_reason


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root",
        default=os.getenv("DETECTRON2_DATASETS", "datasets"),
        help="folder of all data sets (default: $DETECTRON2_DATASETS, or datasets)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    args = parser.parse_args(argv)
    with one_line_errors():
        try:
            paths = make_digits_lt(args.root, seed=args.seed)
        except OSError as error:
            raise InputError(
                f"Nothing can be written to {args.root!r} ({os_reason(error)})."
            ) from error

    train, val = (json.loads(paths[f"{split}_json"].read_text()) for split in ("train", "val"))
    val_instances = Counter(annotation["category_id"] for annotation in val["annotations"])
    row = "{:<6} {:>9} {:>12} {:>15} {:>13}"
    print(row.format("digit", "frequency", "train images", "train instances", "val instances"))
    for category in sorted(train["categories"], key=lambda c: -c["image_count"]):
        print(
            row.format(
                category["name"],
                category["frequency"],
                category["image_count"],
                category["instance_count"],
                val_instances[category["id"]],
            )
        )
    sizes = ", ".join(
        f"{len(data['images'])} {n} images"
        for n, data in (("training", train), ("validation", val))
    )
    print(f"{sizes} in {paths['root']}")


if __name__ == "__main__":
    main()
