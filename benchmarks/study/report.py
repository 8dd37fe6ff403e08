"""Tables and figures of evidence.py, from the runs that are there."""

import argparse
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import hardware

from igam_d2.errors import InputError
from igam_d2.files import write_json, write_whole
from igam_d2.report.drawing import Drawing
from study.class_figures import ap_figure, margins_figure
from study.drawing import save
from study.figures import differences_figure, grid_figure, sweep_figure
from study.plan import CACHED, FULL, GRID, SCALES, Choice, cosine_ce, igam, softmax_ce
from study.records import RunRecord, load_records, select
from study.runs import SPLITS, Experiment, Run
from study.tables import (
    correlations_table,
    differences_table,
    grid_table,
    main_table,
    margins_table,
    sweep_table,
)

__all__ = ["write_evidence"]

TITLES = {
    FULL: "Whole detectors, trained from scratch",
    CACHED: "Second stages on cached RoI features",
}
# Table 2 of the paper: LVIS v1, Faster R-CNN R50
TABLE_2 = {
    s: {"AP": ap, "APr": apr}
    for s, ap, apr in (
        (10, 16.8, 0.8),
        (20, 26.2, 17.6),
        (30, 26.8, 19.0),
        (40, 25.9, 18.4),
        (50, 24.6, 16.9),
    )
}


def write_evidence(
    experiment: Experiment, choice: Choice, runs: Sequence[Run], args: argparse.Namespace
) -> list[Path]:
    """tables.md, tables.json and the figures, of the test split; and the main tables of the
    selection split, by which was chosen.

    Returns:
        The files written.
    """
    records = {
        split: _of(load_records(experiment.output, name), runs)
        for split, name in zip(SPLITS, experiment.datasets, strict=True)
    }
    if not records["test"]:
        print("No run is done yet: there is nothing to write.")
        return []
    facts = _facts(experiment, choice, args)
    parts = ["# Meshes-LT: what the losses do", "", _described(facts)]
    content: dict[str, Any] = {"facts": facts}
    for title, (text, values) in _tables(records, choice, runs).items():
        parts += ["", f"## {title}", "", text]
        content[title] = values
    output = experiment.output
    page = "\n".join(parts) + "\n"
    write_whole(output / "tables.md", lambda f: f.write(page.encode()))
    write_json(output / "tables.json", content)
    figures = [save(drawing, output / "figures") for drawing in _figures(records["test"], choice)]
    return [output / "tables.md", output / "tables.json", *figures]


def _of(records: Sequence[RunRecord], runs: Sequence[Run]) -> list[RunRecord]:
    """Those of the runs that are complete: another's results may be of another training."""
    done = {(run.kind, run.method.name, run.seed) for run in runs if run.result is not None}
    return [r for r in records if (r.kind, r.method, r.seed) in done]


def _facts(experiment: Experiment, choice: Choice, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "classes": len(experiment.categories),
        "training_images": experiment.num_images,
        "seeds": experiment.seeds,
        "full_iterations": args.full_iterations,
        "cached_iterations": args.cached_iterations,
        "passes": args.passes,
        "choice": vars(choice),
        "hardware": hardware("cuda" if args.gpus else "cpu"),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _described(facts: dict[str, Any]) -> str:
    return (
        f"{facts['classes']} classes, {facts['training_images']:,} training images; seeds "
        f"{', '.join(map(str, facts['seeds']))}; {facts['full_iterations']:,} iterations of whole "
        f"detectors, {facts['cached_iterations']:,} of second stages on RoI features of "
        f"{facts['passes']} passes over the training set; {facts['hardware']}, torch "
        f"{facts['torch']}; {facts['date']}. AP of boxes in %, on the test split where nothing "
        "else is said."
    )


def _tables(
    records: dict[str, list[RunRecord]], choice: Choice, runs: Sequence[Run]
) -> dict[str, tuple[str, Any]]:
    test = records["test"]
    tables: dict[str, tuple[str, Any]] = {}
    for kind in (FULL, CACHED):
        methods = _methods(runs, kind, test)
        if not methods:
            continue
        title = TITLES[kind]
        tables[title] = main_table(test, methods, kind)
        tables[f"{title}: on the selection split"] = main_table(records["selection"], methods, kind)
        if baseline := _baseline(choice, methods):
            others = [method for method in methods if method != baseline]
            tables[f"{title}: differences to cosine CE"] = differences_table(
                test, others, baseline, kind
            )
        tables[f"{title}: what AP goes along with"] = correlations_table(test, methods, kind)
        if with_margins := [m for m in methods if m.startswith("igam")]:
            tables[f"{title}: margins"] = margins_table(test, with_margins, kind)
    if choice.scale is not None:
        grid, baseline = _grid(choice), cosine_ce(choice.scale).name
        for split in SPLITS[::-1]:
            tables[f"Readings and shrinkages: {split} split"] = grid_table(
                records[split], grid, baseline, CACHED
            )
    for split in SPLITS[::-1]:
        tables[f"The scale: {split} split"] = sweep_table(
            records[split], _series(choice), TABLE_2, "paper, LVIS v1", CACHED
        )
    return tables


def _figures(records: Sequence[RunRecord], choice: Choice) -> list[Drawing]:
    """Those for which there are runs."""
    makers: list[Callable[[], Drawing]] = [lambda: ap_figure(records, softmax_ce().name, FULL)]
    if choice.scale is not None:
        baseline = cosine_ce(choice.scale).name
        for kind in (FULL, CACHED):
            methods = list(dict.fromkeys(r.method for r in select(records, kind=kind)))
            others = [m for m in methods if m != baseline and not _other_scale(m, choice)]
            makers.append(
                lambda kind=kind, others=others: differences_figure(
                    records, others, baseline, kind, f"differences_{kind}"
                )
            )
        makers += [
            lambda: ap_figure(records, baseline, FULL),
            lambda: grid_figure(records, _grid(choice), baseline, CACHED),
            lambda: margins_figure(records, _grid(choice), CACHED),
        ]
    makers.append(lambda: sweep_figure(records, _series(choice), CACHED))
    drawings = []
    for make in makers:
        try:
            drawings.append(make())
        except InputError as error:  # without the runs that it needs
            print(f"- No figure: {error}")
    return drawings


def _methods(runs: Sequence[Run], kind: str, records: Sequence[RunRecord]) -> list[str]:
    """Of a kind, in the order of the plan, that a seed is done of."""
    done = {record.method for record in records if record.kind == kind}
    names = dict.fromkeys(run.method.name for run in runs if run.kind == kind)
    return [name for name in names if name in done]


def _baseline(choice: Choice, methods: Sequence[str]) -> str | None:
    name = None if choice.scale is None else cosine_ce(choice.scale).name
    return name if name in methods else None


def _other_scale(method: str, choice: Choice) -> bool:
    return any(f"_s{s}" in method for s in SCALES if s != choice.scale)


def _grid(choice: Choice) -> dict[tuple[str, str], str]:
    return {pair: igam(*pair, choice.scale).name for pair in GRID}


def _series(choice: Choice) -> dict[str, dict[int, str]]:
    series = {"cosine CE": {s: cosine_ce(s).name for s in SCALES}}
    if choice.reading is not None:
        pair = choice.reading, choice.shrinkage
        label = f"IGAM {choice.reading}, {choice.shrinkage}"
        series[label] = {s: igam(*pair, s).name for s in SCALES}
    return series
