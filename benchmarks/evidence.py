#!/usr/bin/env python
"""Losses, readings and scales on Meshes-LT: trains them alike, and writes tables and figures.

    python tools/prepare_meshes_lt.py make --num-classes 50 --image-size 128
    python benchmarks/evidence.py [--seeds 1 2 3 4] [--full-seeds 1 2 3] [--jobs 2] [--gpus 0]
        [--hours H] [--output output/evidence] [-- KEY VALUE ...]

The runs, their order and the choices between them are in study/plan.py. Whole detectors are
trained from scratch. Second stages (box head, embedding, classifier, box regression) are trained
from scratch too, on cached RoI features of the whole detector with softmax cross-entropy of the
same seed. All runs of a kind take the same number of iterations with the same learning rates.

Run again, it goes on where it was interrupted; with --hours no run is begun after that time, and
--report writes tables and figures of what is there. Choices are made on the selection split; the
tables are of the test split. In <output>: full/ and cached/ <method>/seed<seed>, cache/,
choices.json, tables.md, tables.json and the figures.
"""

import argparse
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from run_queue import execute, slots
from study.plan import CACHED, FULL, Choice, Step, steps
from study.report import write_evidence
from study.runs import ROOT, Experiment, Run

from igam_d2.errors import one_line_errors
from igam_d2.files import write_json

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
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument(
        "--gpus", type=int, default=0, help="that the runs take in turn (default: %(default)s)"
    )
    parser.add_argument("--hours", type=float, help="begin no run after this time")
    parser.add_argument("--steps", type=int, metavar="N", help="the first N steps of the plan")
    parser.add_argument("--report", action="store_true", help="run nothing, write the tables")
    return parser


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    arguments = parser()
    args = arguments.parse_args(argv[:split])
    numbers = (args.full_iterations, args.cached_iterations, args.passes, args.jobs)
    if min(numbers) < 1 or min(args.seeds + args.full_seeds) < 0 or args.gpus < 0:
        arguments.error("iterations, passes and jobs must be at least 1; seeds and GPUs at least 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with one_line_errors():
        try:
            return run(args, argv[split + 1 :])
        except KeyboardInterrupt:  # the runs were stopped on the way here
            print("Interrupted: the same command goes on from here.", file=sys.stderr)
            return 128 + signal.SIGINT


def run(args: argparse.Namespace, opts: list[str]) -> int:
    experiment = Experiment(
        args.config_file,
        args.output,
        seeds=list(dict.fromkeys(args.seeds)),
        full_seeds=list(dict.fromkeys(args.full_seeds)),
        iterations={FULL: args.full_iterations, CACHED: args.cached_iterations},
        passes=args.passes,
        opts=opts,
    )
    deadline = None if args.hours is None else time.monotonic() + 3600 * args.hours
    choice = Choice()
    done: list[Run] = []
    number = 0
    while number < len(planned := steps(choice)[: args.steps]):
        step = planned[number]
        number += 1
        jobs = experiment.jobs(step)
        if not args.report and not all(job.over for job in jobs):
            print(f"Step {number}: {step.title}", flush=True)
            execute(jobs, slots(args.jobs, args.gpus), deadline=deadline)
        done += [job for job in jobs if isinstance(job, Run) and job not in done]
        if step.candidates:
            choice = choose(step, choice, experiment)
    missing = [job for job in done if job.result is None]
    write_json(args.output / "choices.json", asdict(choice))
    for job in missing:
        print(f"- {job.name}: {job.problem or 'not run'}", flush=True)
    for path in write_evidence(experiment, choice, done, args):
        print(path)
    return int(any(job.problem for job in done))


def choose(step: Step, choice: Choice, experiment: Experiment) -> Choice:
    """The candidate with the highest mean AP on the selection split; as it was before all seeds of
    all candidates are over. A candidate of which a run failed is not chosen."""
    means = {}
    for candidate, method in step.candidates.items():
        runs = [experiment.run(CACHED, method, seed) for seed in experiment.seeds]
        if not all(run.over for run in runs):
            print(f"Nothing is chosen yet: {method.name} is not done.", flush=True)
            return choice
        if not any(run.problem for run in runs):
            means[candidate] = sum(run.result["selection"] for run in runs) / len(runs)
    if not means:
        return choice
    best = max(means, key=means.get)
    values = ", ".join(f"{candidate} {ap:.2f}" for candidate, ap in means.items())
    print(f"AP on the selection split: {values}. Chosen: {best}", flush=True)
    return best


if __name__ == "__main__":
    sys.exit(main())
