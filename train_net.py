#!/usr/bin/env python
"""Trains and evaluates a detector; `--help` lists the options, README.md the configs."""

import sys

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from igam_d2.config import load_config
from igam_d2.engine import Trainer, launch
from igam_d2.errors import InputError, TransientError


def parser():
    parser = default_argument_parser()
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=30,
        metavar="MINUTES",
        help="how long to wait for the other machines, and in a collective (default: %(default)s)",
    )
    return parser


def main(args, cfg):
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="igam_d2")
    if args.eval_only:
        return Trainer.evaluate(cfg, Trainer.build_model(cfg), resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = parser().parse_args()
    try:
        cfg = load_config(args.config_file, args.opts)  # a mistake in it ends here, in one line
        launch(main, args, cfg)
    except (InputError, TransientError) as error:
        print(f"error: {error}", file=sys.stderr)
        # As for an option that the parser refuses, where trying again does not help
        sys.exit(2 if isinstance(error, InputError) else 1)
