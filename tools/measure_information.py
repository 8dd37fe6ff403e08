#!/usr/bin/env python
"""Measures the information amount of every class in one pass over a data set, with any detector.

    python tools/measure_information.py --config-file X MODEL.WEIGHTS Y [KEY VALUE ...]

The detector is one of Detectron2 or of this project, trained with any loss: Faster, Mask or Cascade
R-CNN, RetinaNet or DETR. An embedding is what its classification layer is given for an instance's
own ground-truth box, or in DETR for the query that is matched with it; images have their size of
testing and no augmentation, crowd regions are left out.

Writes a JSON file
    {"config_file", "weights", "datasets", "num_images", "shrinkage", "results": PATH or null,
     "predictors": {NAME: {"width": W, "embedding_dim": D, "num_nonfinite": embeddings left out,
        "classes": [{"name", "num_instances", "information": bits, "group", "AP": {TASK: %}}, ...],
        "correlation": {TASK: {VARIABLE: {"pearson": [value, low, high], "spearman": [...],
                                          "num_classes"}}}}}}
with a predictor for each stage of a cascade, classes in their contiguous order, and "group", "AP"
and "correlation" (with 95% confidence intervals) only with --results; and beside it a CSV file with
a row for each predictor and class. What is not known, as the information amount of a class with
fewer than two instances, is null, and empty in the CSV file.
"""

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from igam_d2.config import load_config
from igam_d2.engine import Checkpointer
from igam_d2.engine.measure import DetectorMoments
from igam_d2.engine.measured_images import ground_truth_batches, load_records
from igam_d2.errors import InputError, TransientError, one_line_errors, os_reason
from igam_d2.files import strict, write_json, write_whole
from igam_d2.functional import SHRINKAGES
from igam_d2.report.information_table import as_csv, describe, read_results, summarize


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with one_line_errors():
        measure(args, load_config(args.config_file, args.opts))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the detector")
    parser.add_argument(
        "--dataset",
        action="append",
        metavar="NAME",
        help="registered with Detectron2; may be given again (default: DATASETS.TRAIN)",
    )
    parser.add_argument(
        "--embedding-dim",
        type=int,
        default=0,
        metavar="D",
        help="project embeddings to D dimensions, at random but always in the same way; "
        "0, the default: as wide as they are",
    )
    parser.add_argument(
        "--shrinkage", choices=SHRINKAGES, help="of covariances (default: MODEL.IGAM.SHRINKAGE)"
    )
    parser.add_argument(
        "--max-images", type=_positive, metavar="N", help="at most N, evenly spaced in the data set"
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=1, metavar="N", help="images (default: %(default)s)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="inference/<dataset>/results.json of a run, whose per-class AP is compared",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.json",
        help="default: information_<dataset>.json in OUTPUT_DIR",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and their values")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def measure(args: argparse.Namespace, cfg: CfgNode) -> None:
    names = tuple(args.dataset or cfg.DATASETS.TRAIN)
    output = args.output or Path(cfg.OUTPUT_DIR) / f"information_{'+'.join(names)}.json"
    if output.suffix != ".json":
        raise InputError(
            f"--output is {str(output)!r}: it must end in .json; a .csv goes beside it."
        )
    model = build_model(cfg)
    detector = DetectorMoments(
        model,
        embedding_dim=args.embedding_dim,
        queue_length=cfg.MODEL.IGAM.QUEUE_LENGTH,
    )
    records = load_records(cfg, names, detector.num_classes, args.max_images)
    class_names = MetadataCatalog.get(names[0]).get("thing_classes")
    class_names = class_names or [str(k) for k in range(detector.num_classes)]
    results = read_results(args.results, class_names) if args.results else None
    Checkpointer(model, exact=True).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    _make_folder(output.parent)  # nobody wants to learn after the pass that it cannot be

    num_instances = sum(not a.get("iscrowd", 0) for r in records for a in r["annotations"])
    print(
        f"{len(records):,} images, {num_instances:,} instances, {detector.num_classes:,} classes; "
        f"moments and queue take {detector.num_bytes / 2**20:,.1f} MiB on {model.device}.",
        file=sys.stderr,
    )
    moments = detector.measure(
        ground_truth_batches(cfg, records, args.batch_size),
        len(records),
        report=lambda line: print(line, file=sys.stderr),
    )

    shrinkage = args.shrinkage or cfg.MODEL.IGAM.SHRINKAGE
    predictors = {}
    for name, own in moments.items():
        information = own.information_amount(shrinkage=shrinkage).double().cpu().numpy()
        predictors[name] = {
            "width": detector.widths[name],
            "embedding_dim": own.embedding_dim,
            "num_nonfinite": int(own.num_nonfinite),
            **summarize(information, own.count.cpu().numpy(), class_names, results),
        }
        print(describe(name, predictors[name]))
    content = {
        "config_file": args.config_file,
        "weights": cfg.MODEL.WEIGHTS,
        "datasets": list(names),
        "num_images": len(records),
        "shrinkage": shrinkage,
        "results": str(args.results) if args.results else None,
        "predictors": predictors,
    }
    content = strict(content)
    try:
        write_json(output, content)
        write_whole(output.with_suffix(".csv"), lambda f: f.write(as_csv(content).encode()))
    except OSError as error:
        raise TransientError(
            f"{str(output)!r} could not be written ({os_reason(error)})."
        ) from error
    print(f"{output}\n{output.with_suffix('.csv')}")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Folder {str(path)!r} cannot be made ({os_reason(error)}).") from error


if __name__ == "__main__":
    main()
