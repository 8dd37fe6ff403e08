#!/usr/bin/env python
"""Write what runs detect, how well by class, and how they learnt, as one page.

    python tools/report.py RUN [RUN ...] [--output DIR]

RUN is the OUTPUT_DIR of a training or an evaluation; several are compared with the first. The page
is report.html, which needs nothing beside it; figures/ has its figures as PNG and SVG.
"""

import argparse
from pathlib import Path

from igam_d2.errors import one_line_errors
from igam_d2.report.build_report import write_report
from igam_d2.report.tables import metrics_text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="default: RUN/report for one run, output/report for several",
    )  # fmt: skip
    parser.add_argument(
        "--dataset", metavar="NAME", help="default: what the first run evaluated last"
    )
    parser.add_argument(
        "--score-threshold", type=float, default=0.3, metavar="SCORE",
        help="of detections that are drawn and counted (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--task", choices=("bbox", "segm"),
        help="boxes or masks in the figures of classes (default: the first that was evaluated)",
    )  # fmt: skip
    parser.add_argument(
        "--max-rare",
        type=int,
        metavar="N",
        help="classes in the gallery of rare ones (default: all)",
    )
    args = parser.parse_args(argv)
    output = args.output or (
        args.runs[0] / "report" if len(args.runs) == 1 else Path("output") / "report"
    )
    with one_line_errors():
        path, runs = write_report(
            args.runs,
            output,
            dataset=args.dataset,
            score_threshold=args.score_threshold,
            task=args.task,
            max_rare=args.max_rare,
        )
    print(metrics_text(runs))
    print(path)


if __name__ == "__main__":
    main()
