#!/usr/bin/env python
"""Losses, readings and scales on Meshes-LT: trains them alike, and writes tables and figures.

    python tools/prepare_meshes_lt.py make --num-classes 50 --image-size 128
    python benchmarks/evidence.py [--seeds 1 2 3 4] [--full-seeds 1 2 3] [--jobs 2] [--gpus 0]
        [--hours H] [--output output/evidence] [-- KEY VALUE ...]

The runs, their order and the choices between them are in study/plan.py. Whole detectors are
trained from scratch. Second stages (box head, embedding, classifier, box regression) are trained
from scratch too, on cached RoI features of the whole detector with softmax cross-entropy of the
same seed. All runs of a kind take the same number of iterations with the same learning rates.

What the second stages can show: backbone, FPN, RPN and proposals are frozen, and were trained with
softmax cross-entropy, so that a loss or a sampler can show no effect on them. That is decoupled
training (Kang et al. 2020), the setting in which rebalancing the classifier is known to look best.
The features of the training images come from a detector that was trained on these images, those of
the selection and test images do not; they are of a fixed number of passes of augmentations. Box
head and class-agnostic box regression are trained anew too, through layers that they share with
the classifier, so that the boxes are not the same for all losses. Whether a difference is there in
whole detectors as well, the few of them say.

Run again, it goes on where it was interrupted; with --hours no run is begun after that time.
Choices are made on the selection split, once; the tables are of the test split, and are written
when the whole plan is done, with the measurements of information amounts after it, or with --report
of what is there: on another machine, too, if the files are copied with their times.

In <output>: full/ and cached/ <method>/seed<seed>, cache/, experiment.json (the data and versions
of the first start: other data are refused), choices.json (delete it to choose anew), times.jsonl,
estimators/, information/, tables.md, tables.json and the figures.
"""

import argparse
import contextlib
import fcntl
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from run_queue import Job, execute, slots
from study.choices import Choices
from study.jobs import Run
from study.plan import CACHED, FULL, Choice, steps
from study.report import write_evidence
from study.runs import ROOT, Experiment

from igam_d2.errors import InputError, one_line_errors

CONFIG = ROOT / "configs" / "Meshes-LT" / "Base-Meshes-LT.yaml"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", type=Path, default=CONFIG, metavar="FILE")
    parser.add_argument("--output", type=Path, default=Path("output") / "evidence")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3, 4], metavar="SEED", help="default: 1 to 4"
    )
    parser.add_argument(
        "--full-seeds",
        type=int,
        nargs="+",
        default=[1, 2, 3],
        metavar="SEED",
        help="of the whole detectors that no second stage needs (default: 1 2 3)",
    )
    parser.add_argument("--full-iterations", type=int, default=1800, metavar="N")
    parser.add_argument("--cached-iterations", type=int, default=1500, metavar="N")
    parser.add_argument(
        "--passes", type=int, default=3, metavar="N", help="over the training set, that are cached"
    )
    parser.add_argument(
        "--jobs", type=int, help="runs at a time (default: 2, or the number of GPUs if it is more)"
    )
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        help="that the runs take in turn (default: %(default)s: all runs on the CPU, also where "
        "there is a GPU)",
    )
    parser.add_argument("--hours", type=float, help="begin no run after this time")
    parser.add_argument("--steps", type=int, metavar="N", help="the first N steps of the plan")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, write the tables of the runs there are"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    arguments = parser()
    args = arguments.parse_args(argv[:split])
    if args.jobs is None:
        args.jobs = max(2, args.gpus)
    numbers = [args.full_iterations, args.cached_iterations, args.passes, args.jobs]
    numbers += [] if args.steps is None else [args.steps]
    if min(numbers) < 1 or min(args.seeds + args.full_seeds) < 0 or args.gpus < 0:
        arguments.error(
            "iterations, passes, jobs and steps must be at least 1; seeds and GPUs at least 0"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with one_line_errors():
        try:
            environments = [] if args.report else slots(args.jobs, args.gpus)
            with contextlib.nullcontext() if args.report else alone(args.output):
                return run(args, argv[split + 1 :], environments)
        except KeyboardInterrupt:  # the runs were stopped on the way here
            print("Interrupted: the same command goes on from here.", file=sys.stderr)
            return 128 + signal.SIGINT


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """
    Raises:
        InputError: another process trains there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Another evidence.py is at work in {output}: wait for it, stop it, or choose "
                "another --output."
            ) from error
        yield


def run(args: argparse.Namespace, opts: list[str], environments: list[dict[str, str]]) -> int:
    if args.report and not args.output.is_dir():
        raise InputError(f"There is no {args.output}: --report is of the runs that are there.")
    experiment = Experiment(
        args.config_file,
        args.output,
        seeds=list(dict.fromkeys(args.seeds)),
        full_seeds=list(dict.fromkeys(args.full_seeds)),
        iterations={FULL: args.full_iterations, CACHED: args.cached_iterations},
        passes=args.passes,
        opts=opts,
        gpus=args.gpus,
    )
    experiment.begin(write=not args.report)
    choices = Choices(args.output / "choices.json")
    deadline = math.inf if args.hours is None else time.monotonic() + 3600 * args.hours
    times = args.output / "times.jsonl"
    choice = Choice()
    jobs_of: list[list[Job]] = []  # of the steps so far, each where it comes first
    while (number := len(jobs_of)) < len(planned := steps(choice)[: args.steps]):
        step = planned[number]
        jobs = experiment.jobs(step)
        begins = not args.report and time.monotonic() < deadline
        if begins and not all(job.over for job in jobs):
            print(f"Step {number + 1}: {step.title}", flush=True)
            execute(jobs, environments, deadline=deadline, times=times)
        jobs_of.append([job for job in jobs if not any(job in before for before in jobs_of)])
        if step.candidates:
            choice = choices.choose(step, choice, experiment)
            if not args.report:
                choices.write()
    whole = choice.reading is not None and len(planned) == len(steps(choice))
    measurements = experiment.measurements(choice) if whole or args.report else []
    if not args.report and time.monotonic() < deadline:
        execute(measurements, environments, deadline=deadline, times=times)
    all_jobs = [job for jobs in (*jobs_of, measurements) for job in jobs]
    for job in all_jobs:
        if job.problem:
            print(f"- {job.name} FAILED: {job.problem}", flush=True)
    for number, (step, jobs) in enumerate(zip(planned, jobs_of, strict=True), start=1):
        if left := sum(not job.over for job in jobs):
            print(f"- Step {number}, {step.title}: {left} of {len(jobs)} are left", flush=True)
    if args.report or (whole and all(job.over for job in all_jobs)):
        runs = [job for job in all_jobs if isinstance(job, Run)]
        for path in write_evidence(experiment, choice, runs, measurements):
            print(path)
    else:  # who looks at the test split and then changes the plan chooses by it
        print(
            "The plan is not done: the same command goes on from here, and --report writes the "
            "tables of what is there."
        )
    return int(any(job.problem for job in all_jobs))


if __name__ == "__main__":
    sys.exit(main())
