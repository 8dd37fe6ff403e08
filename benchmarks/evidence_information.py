#!/usr/bin/env python
"""What each estimate of information amounts measures of one trained detector.

    python benchmarks/evidence_information.py --config-file X --train NAME --balanced NAME
        [--diversity FILE] [--results FILE] --output FILE.json MODEL.WEIGHTS W [KEY VALUE ...]

One pass over the training set, and one over a set of which the same number of instances of every
class is used, so that what an estimate owes to that number is the same for all classes. From the
same moments every estimate; their rank correlations over the classes with each other, with the
number of training instances, with the diversity of the classes as they were made (Meshes-LT's
diversity.json) and with their AP (results.json of an evaluation). And for the classes with the most
training instances, what an estimate gives of a few of a class's embeddings against all of them.
Writes FILE.json, and the tables as FILE.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from study.information_samples import SIZES, KeptEmbeddings, subsample
from study.information_tables import (
    correlation_table,
    correlations,
    markdown,
    subsample_table,
)

from igam_d2.config import load_config
from igam_d2.engine import Checkpointer
from igam_d2.engine.measure import DetectorMoments
from igam_d2.engine.measured_images import ground_truth_batches, load_records
from igam_d2.errors import InputError, TransientError, one_line_errors, os_reason
from igam_d2.files import strict, write_json, write_whole
from igam_d2.functional import SHRINKAGES
from igam_d2.moments import ClassMoments
from igam_d2.report.information_table import read_results

__all__ = [
    "correlation_table",
    "correlations",
    "equalised",
    "markdown",
    "read_diversity",
    "subsample",
    "subsample_table",
]


def measure(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any]:
    """The content of the JSON file."""
    model = build_model(cfg)
    detector = DetectorMoments(
        model, embedding_dim=args.embedding_dim, queue_length=cfg.MODEL.IGAM.QUEUE_LENGTH
    )
    num_classes = detector.num_classes
    records = {
        "train": load_records(cfg, (args.train,), num_classes, None),
        "balanced": load_records(cfg, (args.balanced,), num_classes, None),
    }
    names = [MetadataCatalog.get(n).get("thing_classes") for n in (args.train, args.balanced)]
    if names[0] != names[1]:
        raise InputError(f"{args.train!r} and {args.balanced!r} have different classes.")
    class_names = names[0] or [str(k) for k in range(num_classes)]
    per_class, records["balanced"] = equalised(records["balanced"], args.per_class)
    diversity = read_diversity(args.diversity, class_names) if args.diversity else None
    results = read_results(args.results, class_names) if args.results else None
    Checkpointer(model, exact=True).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)

    counts = np.bincount(_classes(records["train"]), minlength=num_classes)
    frequent = np.argsort(-counts, kind="stable")[: args.frequent]
    kept = KeptEmbeddings(int(k) for k in frequent)
    moments = {}
    for split, of in records.items():
        print(f"{split}: {len(of):,} images, {len(_classes(of)):,} instances", file=sys.stderr)
        moments[split] = detector.measure(
            ground_truth_batches(cfg, of, args.batch_size),
            len(of),
            report=lambda line: print(line, file=sys.stderr),
            observe=kept if split == "train" else None,
        )

    predictors = {}
    for name, width in detector.widths.items():
        train, balanced = (moments[split][name] for split in ("train", "balanced"))
        classes = _class_records(train, balanced, class_names, diversity, results)
        predictors[name] = {
            "width": width,
            "embedding_dim": train.embedding_dim,
            "num_nonfinite": int(train.num_nonfinite + balanced.num_nonfinite),
            "classes": classes,
            "correlations": correlations(classes),
            "subsamples": [
                {"name": class_names[k], **subsample(x, SIZES, args.draws, args.seed)}
                for k, x in kept.of(name)
            ],
        }
    content = {
        "config_file": args.config_file,
        "weights": cfg.MODEL.WEIGHTS,
        "train": args.train,
        "balanced": args.balanced,
        "per_class": per_class,
        "num_images": {split: len(of) for split, of in records.items()},
        "diversity": str(args.diversity) if args.diversity else None,
        "results": str(args.results) if args.results else None,
        "draws": args.draws,
        "seed": args.seed,
        "predictors": predictors,
    }
    return strict(content)


def _is_object(annotation: dict) -> bool:
    return not annotation.get("iscrowd", 0)


def _classes(records: Sequence[dict]) -> list[int]:
    return [a["category_id"] for r in records for a in r["annotations"] if _is_object(a)]


def equalised(records: list[dict], per_class: int | None = None) -> tuple[int, list[dict]]:
    """The records with the first so many instances of every class, and that number.

    Args:
        per_class: at most so many; None is what the rarest class that is there has.

    Raises:
        InputError: None, and there is a class with a single instance.
    """
    if per_class is None:
        per_class = int(min(np.unique(_classes(records), return_counts=True)[1]))
        if per_class < 2:
            raise InputError(
                "A class has a single instance in the balanced set: with --per-class N it is left "
                "out, and of the others at most N instances are used."
            )
    seen: dict[int, int] = {}
    kept = []
    for record in records:
        annotations = []
        for annotation in filter(_is_object, record["annotations"]):
            k = annotation["category_id"]
            seen[k] = seen.get(k, 0) + 1
            if seen[k] <= per_class:
                annotations.append(annotation)
        if annotations:
            kept.append({**record, "annotations": annotations})
    return per_class, kept


def read_diversity(path: Path, class_names: Sequence[str]) -> list[float]:
    """(K,) numbers of a JSON file that has one for each class name, under "diversity".

    Raises:
        InputError: no such file, or no such numbers.
    """
    try:
        found = json.loads(path.read_text())["diversity"]
        return [float(found[name]) for name in class_names]
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{str(path)!r} has no diversity of every class: it must be a JSON object with "
            "'diversity', which has a number for each class name."
        ) from error


def _class_records(
    train: ClassMoments,
    balanced: ClassMoments,
    class_names: Sequence[str],
    diversity: list[float] | None,
    results: list[dict] | None,
) -> list[dict[str, Any]]:
    def bits(moments: ClassMoments) -> dict[str, list[float]]:
        few = moments.count < 2
        return {
            key: moments.information_amount(shrinkage=key).masked_fill(few, math.nan).tolist()
            for key in SHRINKAGES
        }

    of_train, of_balanced = bits(train), bits(balanced)
    n_train, n_balanced = train.count.tolist(), balanced.count.tolist()
    return [
        {
            "name": name,
            "n_train": n_train[k],
            "n_balanced": n_balanced[k],
            "info_train": {key: of_train[key][k] for key in SHRINKAGES},
            "info_balanced": {key: of_balanced[key][k] for key in SHRINKAGES},
            "diversity": diversity[k] if diversity else None,
            "AP": results[k]["AP"].get("bbox") if results else None,
        }
        for k, name in enumerate(class_names)
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the detector")
    parser.add_argument("--train", required=True, metavar="NAME", help="registered training set")
    parser.add_argument("--balanced", required=True, metavar="NAME", help="registered set")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--diversity", type=Path, metavar="FILE", help="a number a class name")
    parser.add_argument("--results", type=Path, metavar="FILE", help="results.json with AP")
    for name, default, text in (
        ("--per-class", None, "instances of the balanced set (default: of its rarest class)"),
        ("--frequent", 5, "classes whose embeddings are subsampled (default: %(default)s)"),
        ("--draws", 20, "subsets of each size (default: %(default)s)"),
        ("--seed", 0, "of the subsets (default: %(default)s)"),
        ("--embedding-dim", 0, "as of tools/measure_information.py (default: as they are)"),
        ("--batch-size", 4, "images (default: %(default)s)"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=text)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and their values")
    args = parser.parse_args(argv)
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    for name, least in (
        ("per_class", 2),
        ("frequent", 0),
        ("draws", 2),
        ("seed", 0),
        ("batch_size", 1),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{option} is {value}: it must be at least {least}.")
    if args.output.suffix != ".json":
        raise InputError(f"--output is {str(args.output)!r}: it must end in .json.")
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"Folder {str(args.output.parent)!r} cannot be made ({os_reason(error)})."
        ) from error
    content = measure(args, load_config(args.config_file, args.opts))
    page = markdown(content)
    try:
        write_json(args.output, content)
        write_whole(args.output.with_suffix(".md"), lambda f: f.write(page.encode()))
    except OSError as error:
        raise TransientError(
            f"{str(args.output)!r} could not be written ({os_reason(error)})."
        ) from error
    print(page)


if __name__ == "__main__":
    main()
