#!/usr/bin/env python
"""Trains and evaluates a detector; `--help` lists the options, README.md the configs."""

import sys

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from igam_d2.config import check_num_gpus, load_config
from igam_d2.engine import Trainer
from igam_d2.errors import InputError


def main(args, cfg):
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="igam_d2")
    if args.eval_only:
        return Trainer.evaluate(cfg, Trainer.build_model(cfg), resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    try:
        cfg = load_config(args.config_file, args.opts)  # a mistake in it ends here, in one line
        check_num_gpus(cfg, args.num_gpus, args.num_machines)
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args, cfg),
        )
    except InputError as error:
        sys.exit(f"error: {error}")
