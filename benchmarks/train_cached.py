#!/usr/bin/env python
"""Trains and evaluates a second stage on the RoI features of a trained detector.

    python benchmarks/train_cached.py --cache FOLDER --write-cache PASSES --config-file FILE
        MODEL.WEIGHTS model_final.pth
    python benchmarks/train_cached.py --cache FOLDER --config-file FILE [--resume] [KEY VALUE ...]

The first makes the cache, of the detector that has these weights, with all of its DATASETS.TEST;
SEED is also that of the RoIs. The second is train_net.py with what it has cached in the place of
backbone and proposals, which are the same for all methods that are trained so. MODEL.WEIGHTS is
then what box head and predictor begin with; by default they begin untrained.

What such runs compare:
- Backbone, FPN, RPN and proposals stay as the cached detector's own loss trained them. A loss or a
  sampler can show no effect on them: this is decoupled training (Kang et al. 2020), the setting in
  which rebalancing the classifier is known to look best.
- Box head, embedding, classifier and box regression are trained; classifier and box regression go
  through the same layers of the box head, so that a classification loss may move the boxes too.
- The features of the training images are of a detector that was trained on these images; those of
  the test images are not.
- There are as many augmentations and RoIs of an image as PASSES, and each iteration takes one.
"""

import signal
import sys

from cached_rois.cache import RoICache
from cached_rois.detector import cached_trainer
from cached_rois.write import write_cache
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from igam_d2.config import load_config
from igam_d2.engine import launch
from igam_d2.engine.checkpoint_hook import PREEMPTED
from igam_d2.errors import InputError, one_line_errors


def train(args, cfg):
    cache = RoICache.load(args.cache, cfg)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="igam_d2")
    trainer_class = cached_trainer(cache)
    if args.eval_only:
        return trainer_class.evaluate(cfg, trainer_class.build_model(cfg), resume=args.resume)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def main(argv: list[str] | None = None) -> None:
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--cache", required=True, metavar="FOLDER", help="of the RoI features")
    parser.add_argument(
        "--write-cache",
        type=int,
        metavar="PASSES",
        help="make the cache, with so many passes over the training set, and end",
    )
    parser.set_defaults(dist_timeout=30)
    args = parser.parse_args(argv)
    with one_line_errors():
        cfg = load_config(args.config_file, args.opts)
        if args.write_cache is None:
            launch(train, args, cfg)
            return
        if args.resume or args.eval_only or args.num_gpus * args.num_machines > 1:
            raise InputError(
                "--write-cache makes a cache in one process, and nothing else: leave out --resume, "
                "--eval-only, --num-gpus and --num-machines."
            )
        setup_logger(name="igam_d2")
        # An exception, at which nothing is left of what is half done
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
        try:
            write_cache(cfg, args.cache, passes=args.write_cache, seed=max(cfg.SEED, 0))
        finally:
            signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    main()
