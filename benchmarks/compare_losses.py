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
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from comparison_runs import BASELINE, ROOT, Run, check_settings, names_of_configs, plan
from comparison_table import DATASET, markdown, summarise
from measure import hardware

from igam_d2.data.digits_lt import make_digits_lt
from igam_d2.errors import InputError
from igam_d2.files import write_json, write_whole
from igam_d2.report.build_report import write_report

POLL_SECONDS = 0.2


def start(run: Run, threads: int) -> subprocess.Popen:
    how = "--resume" if run.trains else "--eval-only"
    command = [sys.executable, str(ROOT / "train_net.py"), how, "--config-file"]
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "console.txt", "wb") as console:
        return subprocess.Popen(
            [*command, str(run.config_file), *run.opts],
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C reaches it as SIGTERM, at which it saves a checkpoint
        )


def execute(runs: Sequence[Run], jobs: int, threads: int) -> None:
    """Carries out the runs that are not over, `jobs` at a time, and says when each is."""
    waiting = [run for run in runs if not run.over]
    running: dict[subprocess.Popen, tuple[Run, float]] = {}
    spent: list[float] = []  # seconds of the trainings

    def say(run: Run, seconds: float = 0.0) -> None:
        said = f"AP {run.metrics['AP']:.1f}" if run.metrics else f"FAILED: {run.problem}"
        trainings = [r for r in (*waiting, *(r for r, _ in running.values())) if r.trains]
        hint = ""
        if spent and trainings:
            left = len(trainings) * sum(spent) / len(spent) / min(jobs, len(trainings))
            hint = f"; about {_duration(left)} left"
        place = f"{sum(r.over for r in runs)}/{len(runs)}"
        print(
            f"{place} {run.method}, seed {run.seed}: {said}, {_duration(seconds)}{hint}", flush=True
        )

    try:
        while waiting or running:
            ready = [run for run in waiting if run.detector is None or run.detector.over]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                if run.detector is not None and run.detector.problem is not None:
                    run.problem = f"it begins with the detector of {BASELINE}, which failed"
                    say(run)
                else:
                    running[start(run, threads)] = run, time.monotonic()
            time.sleep(POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                run, began = running.pop(process)
                seconds = time.monotonic() - began
                finish(run, process.returncode)
                if run.trains and run.metrics is not None:
                    spent.append(seconds)
                say(run, seconds)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def finish(run: Run, status: int) -> None:
    run.metrics = run.found() if status == 0 else None
    if run.metrics is None:
        text = (run.folder / "console.txt").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        run.problem = f"{lines[-1].strip() if lines else 'it said nothing'} (exit status {status})"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


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
        check_settings(run)
        if not run.problem:
            run.metrics = run.found()
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    done = sum(run.metrics is not None for run in runs)
    print(f"{len(runs)} runs, {done} of them done before; {args.jobs} at a time", flush=True)
    for run in runs:
        if run.problem:
            print(f"- {run.method}, seed {run.seed}: FAILED: {run.problem}", flush=True)
    execute(runs, args.jobs, threads)

    records = summarise(runs, by_ap=not args.configs)
    devices = {run.cfg.MODEL.DEVICE for run in runs if run.cfg is not None}
    facts = {
        "iterations": args.iterations,
        "seeds": seeds,
        "hardware": hardware("cuda" if any(d.startswith("cuda") for d in devices) else "cpu"),
        "torch": torch.__version__,
        "jobs": args.jobs,
        "threads": threads,
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
