#!/usr/bin/env python
"""Train the methods of configs/Digits-LT alike, and write a table and a report of them.

    python benchmarks/compare_losses.py [CONFIG ...] [--iterations 600] [--seeds 1 2]
        [--output output/compare_losses] [--jobs 2] [-- KEY VALUE ...]

CONFIG is the name of a file there, without suffix; default: all of them. Run again, it goes on
where it was interrupted. Runs are in <output>/seed<seed>/<config>, with what they said in
console.txt. A second stage begins with the detector of softmax_ce, and a calibration of its scores
only evaluates that. The table has means over the seeds; the report holds one run of each method,
the first seed's.
"""

import argparse
import datetime
import os
import signal
import sys
from pathlib import Path

import torch
from comparison_runs import BASELINE, RESULTS, names_of_configs, plan
from comparison_table import DATASET, markdown, summarise
from measure import hardware
from run_queue import execute, slots
from run_settings import check_settings

from igam_d2.data.digits_lt import make_digits_lt
from igam_d2.errors import InputError
from igam_d2.files import write_json, write_whole
from igam_d2.report.build_report import write_report


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    opts = argv[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=", ".join(names_of_configs()))
    parser.add_argument("--iterations", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--output", type=Path, default=Path("output") / "compare_losses")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    args = parser.parse_args(argv[:split])
    for name in args.configs:
        if name not in names_of_configs():
            parser.error(f"there is no config {name}, only {', '.join(names_of_configs())}")
    if min(args.iterations, args.jobs) < 1 or min(args.seeds) < 0:
        parser.error("--iterations and --jobs must be at least 1, and --seeds 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return compare(args, opts)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the runs were stopped on the way here
        print("Interrupted: the same command goes on from here.", file=sys.stderr)
        return 128 + signal.SIGINT


def compare(args: argparse.Namespace, opts: list[str]) -> int:
    methods = list(dict.fromkeys(args.configs or names_of_configs()))
    seeds = list(dict.fromkeys(args.seeds))
    runs = plan(methods, seeds, args.iterations, args.output, opts)
    datasets = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    if not (datasets / "digits_lt").is_dir():
        print(f"Making Digits-LT in {datasets}", flush=True)
        make_digits_lt(datasets)
    for run in runs:
        if not run.problem:
            check_settings(run.folder, run.cfg, [RESULTS])
            run.result = run.found()
    done = sum(run.result is not None for run in runs)
    print(f"{len(runs)} runs, {done} of them done before; {args.jobs} at a time", flush=True)
    for run in runs:
        if run.problem:
            print(f"- {run.name}: FAILED: {run.problem}", flush=True)
    environments = slots(args.jobs)
    execute(runs, environments)

    records = summarise(runs, by_ap=not args.configs)
    devices = {run.cfg.MODEL.DEVICE for run in runs if run.cfg is not None}
    facts = {
        "iterations": args.iterations,
        "seeds": seeds,
        "hardware": hardware("cuda" if any(d.startswith("cuda") for d in devices) else "cpu"),
        "torch": torch.__version__,
        "jobs": args.jobs,
        "threads": int(environments[0]["OMP_NUM_THREADS"]),
        "date": datetime.date.today().isoformat(),
        "opts": opts,
    }
    page = markdown(records, facts)
    args.output.mkdir(parents=True, exist_ok=True)
    write_whole(args.output / "table.md", lambda f: f.write(page.encode()))
    write_json(args.output / "table.json", {**facts, "dataset": DATASET, "methods": records})
    print(page)
    finished = [record for record in records if record["seeds"]]
    # What the others are compared with comes first
    finished.sort(key=lambda record: record["method"] != BASELINE)
    if finished:
        folders = [args.output / f"seed{r['seeds'][0]}" / r["method"] for r in finished]
        print(write_report(folders, args.output / "report", dataset=DATASET)[0])
    return int(any(run.problem for run in runs))


if __name__ == "__main__":
    sys.exit(main())
