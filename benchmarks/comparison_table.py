"""What compare_losses.py writes of its runs: a table of means over seeds, also as JSON."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from igam_d2.errors import InputError
from igam_d2.report.run_folder import load_run

__all__ = ["DATASET", "METRICS", "markdown", "read_metrics", "summarise"]

DATASET = "digits_lt_val"
METRICS = ("AP", "APr", "APc", "APf", "bias std")


def read_metrics(folder: Path) -> dict[str, float | None] | None:
    """Of a run's evaluation, in %, None where there is no ground truth; None without one."""
    try:
        run = load_run(folder, DATASET)
        found = {**run.metrics["bbox"], "bias std": run.results["bias"]["bbox"]["std"]}
        return {name: found[name] for name in METRICS}
    except (InputError, KeyError, TypeError):
        return None


def summarise(runs: Sequence[Any], by_ap: bool) -> list[dict[str, Any]]:
    """A record for each method, in the order of the runs or with the highest AP first.

    Args:
        runs: each with `method`, `seed`, `result` (None if it failed) and `problem`.
    """
    records = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        done = [run for run in mine if run.result is not None]
        record = {
            "method": method,
            "seeds": [run.seed for run in done],
            "failed": {run.seed: run.problem for run in mine if run.result is None},
            "metrics": {},
        }
        for name in METRICS if done else ():
            values = [run.result[name] for run in done]
            known = None not in values
            record["metrics"][name] = {
                "values": values,
                "mean": statistics.fmean(values) if known else None,
                "std": statistics.stdev(values) if known and len(values) > 1 else None,
            }
        records.append(record)
    if by_ap:
        records.sort(key=_ap, reverse=True)
    return records


def _ap(record: dict[str, Any]) -> float:
    ap = record["metrics"].get("AP", {}).get("mean")
    return float("-inf") if ap is None else ap


def markdown(records: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page with the table.

    Args:
        facts: `iterations`, `seeds`, `hardware`, `torch`, `jobs`, `threads`, `date`, `opts`.
    """
    seeds = ", ".join(map(str, facts["seeds"]))
    opts = f" Options for all of them: `{' '.join(facts['opts'])}`." if facts["opts"] else ""
    rows = []
    for record in records:
        done, tried = len(record["seeds"]), len(record["seeds"]) + len(record["failed"])
        row = [record["method"], f"{done}" if done == tried else f"{done} of {tried}"]
        row += [_cell(record["metrics"][name]) for name in METRICS if done]
        rows.append([*row, *["failed"] * (0 if done else len(METRICS))])
    table = tabulate(
        rows,
        ("method", "seeds", *METRICS),
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *["right"] * (1 + len(METRICS))),
    )
    failures = [
        f"- {record['method']}, seed {seed}, failed: {problem}"
        for record in records
        for seed, problem in record["failed"].items()
    ]
    return "\n".join(
        [
            "# Classification losses on Digits-LT: a smoke comparison",
            "",
            "On a toy set of ten classes: it shows that a method trains, and is too small and too",
            "noisy to rank methods.",
            "",
            f"{facts['iterations']} iterations, seeds {seeds}; {facts['hardware']}, "
            f"{facts['jobs']} at a time with {facts['threads']} threads each, "
            f"torch {facts['torch']}; {facts['date']}.{opts}",
            "",
            "Box AP in %, mean ± standard deviation over the seeds; bias std: standard deviation",
            "of the AP over the classes.",
            "",
            table,
            *(["", *failures] if failures else []),
            "",
        ]
    )


def _cell(metric: dict[str, Any]) -> str:
    if metric["mean"] is None:
        return "-"
    spread = "" if metric["std"] is None else f" ± {metric['std']:.1f}"
    return f"{metric['mean']:.1f}{spread}"
