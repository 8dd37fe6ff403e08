#!/usr/bin/env python
"""Draw what a run detects, how well by class, and how it learnt, into one picture.

    python tools/report.py RUN [--output PATH]

RUN is the OUTPUT_DIR of a training or an evaluation on a dataset in LVIS format.
"""

import argparse
import sys
from pathlib import Path

from igam_d2.errors import InputError
from igam_d2.report.run_figure import Run, draw_run, load_run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="OUTPUT_DIR of the run")
    parser.add_argument("--output", type=Path, help="of the PNG (default: RUN/summary.png)")
    parser.add_argument("--dataset", help="default: the one evaluated last")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        run = load_run(args.run, args.dataset)
        output = args.output or args.run / "summary.png"
        path = draw_run(run, output, score_threshold=args.score_threshold)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(metrics_table(run))
    print(path)
    return 0


def metrics_table(run: Run) -> str:
    """The metrics of a run in %, a row for each task."""
    names = list(next(iter(run.metrics.values())))
    width = max(len(run.dataset), 8)
    lines = [run.dataset.ljust(width) + "".join(f"{name:>8}" for name in names)]
    for task, metrics in run.metrics.items():
        cells = ("-" if metrics[name] is None else f"{metrics[name]:.2f}" for name in names)
        lines.append(task.ljust(width) + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
