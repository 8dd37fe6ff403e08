"""Tables and figures of evidence.py, from the runs that are there."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from igam_d2.errors import InputError
from igam_d2.files import write_json, write_whole
from igam_d2.report.drawing import Drawing
from study.cells import method_label
from study.class_figures import ap_figure, gain_figure
from study.class_tables import correlations_table, gain_by_information
from study.comparison_tables import agreement_table, decomposition_table, differences_table
from study.drawing import save
from study.figures import differences_figure, grid_figure, sweep_figure
from study.information_tables import over_seeds
from study.jobs import SPLITS, Measurement, Run
from study.margins_figure import margins_figure
from study.plan import (
    BELOW,
    CACHED,
    FULL,
    GRID,
    SCALES,
    Choice,
    Method,
    cosine_ce,
    igam,
    softmax_ce,
    steps,
)
from study.records import RunRecord, load_record
from study.runs import Experiment
from study.tables import grid_table, main_table, margins_table, sweep_table

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
    experiment: Experiment, choice: Choice, runs: Sequence[Run], measurements: Sequence[Measurement]
) -> list[Path]:
    """tables.md, tables.json and the figures, of the test split; and the main tables of the
    selection split, by which was chosen.

    Returns:
        The files written.
    """
    done = [run for run in runs if run.result is not None]
    records = {
        split: [r for run in done if (r := load_record(run.folder, name)) is not None]
        for split, name in zip(SPLITS, experiment.datasets, strict=True)
    }
    if not done:
        print("No run is done yet: there is nothing to write.")
        return []
    parts = ["# Meshes-LT: what the losses do", "", _described(experiment, choice)]
    content: dict[str, Any] = {"facts": experiment.facts, "choice": vars(choice)}
    for title, (text, values) in _tables(records, choice).items():
        parts += ["", f"## {title}", "", text]
        content[title] = values
    for method in dict.fromkeys(m.detector.method.name for m in measurements if m.detector):
        found = [
            m.result
            for m in measurements
            if m.detector and m.detector.method.name == method and m.result
        ]
        if found:
            title = f"Information amounts of whole detectors with {method_label(method)}"
            parts += ["", f"## {title}", "", _INFORMATION, "", over_seeds(found)]
    output = experiment.output
    page = "\n".join(parts) + "\n"
    write_whole(output / "tables.md", lambda f: f.write(page.encode()))
    write_json(output / "tables.json", content)
    figures = [save(drawing, output / "figures") for drawing in _figures(records["test"], choice)]
    return [output / "tables.md", output / "tables.json", *figures]


_INFORMATION = (
    "Of ground-truth boxes without augmentation, at the end of training: on the training set "
    "(info_train), and on the selection split with as many instances of each class "
    "(info_balanced), where what an estimate owes to that number is the same for all. Mean ± "
    "standard deviation over the seeds. `info_balanced` is by the same estimate, "
    "`info_balanced oas` by oas; AP | log_n_train is the partial correlation given the log of the "
    "training instances; diversity knows no model. Then what an estimate gives of n embeddings of "
    "a frequent class, less what it gives of all of them, in bits."
)


def _described(experiment: Experiment, choice: Choice) -> str:
    facts = experiment.facts
    iterations = facts["iterations"]
    return (
        f"{facts['num_classes']} classes, {facts['num_training_images']:,} training images; "
        f"{iterations[FULL]:,} iterations of whole detectors, {iterations[CACHED]:,} of second "
        f"stages on RoI features of {facts['passes']} passes over the training set; "
        f"{facts['hardware']}, torch {facts['torch']}; begun on {facts['date']}. Chosen on the "
        f"selection split: s = {choice.scale}, then {choice.reading}, {choice.shrinkage}. AP of "
        "boxes in %, on the test split where nothing else is said.\n\n"
        "Second stages are box head, embedding, classifier and class-agnostic box regression, "
        "trained from scratch on RoI features of the whole detector with softmax cross-entropy of "
        "the same seed: its backbone, region proposals and so the boxes that are classified are "
        "the same for all of them, and were learnt with that loss."
    )


def _tables(records: dict[str, list[RunRecord]], choice: Choice) -> dict[str, tuple[str, Any]]:
    test = records["test"]
    tables: dict[str, tuple[str, Any]] = {}
    for kind in (FULL, CACHED):
        methods = _methods(test, kind, choice)
        if not methods:
            continue
        title = TITLES[kind]
        tables[title] = main_table(test, methods, kind)
        tables[f"{title}: on the selection split"] = main_table(records["selection"], methods, kind)
        tables |= {f"{title}: {name}": t for name, t in _comparisons(test, choice, kind).items()}
        tables[f"{title}: what AP goes along with"] = correlations_table(test, methods, kind)
        if with_margins := [m for m in methods if m.startswith("igam")]:
            tables[f"{title}: margins"] = margins_table(test, with_margins, kind)
    if choice.scale is not None:
        grid, baseline = _grid(choice), cosine_ce(choice.scale).name
        for split in SPLITS[::-1]:
            tables[f"Readings and shrinkages: {split} split"] = grid_table(
                records[split], grid, baseline, CACHED
            )
        both = [m for m in _methods(test, FULL, choice) if m != baseline]
        agreement = agreement_table(test, both, baseline)
        if agreement[1]["num_compared"]:
            tables["Second stages and whole detectors"] = agreement
    for split in SPLITS[::-1]:
        tables[f"The scale: {split} split"] = sweep_table(
            records[split], _series(choice), TABLE_2, "paper, LVIS v1", CACHED
        )
    return tables


def _comparisons(
    records: Sequence[RunRecord], choice: Choice, kind: str
) -> dict[str, tuple[str, Any]]:
    """Paired differences, of the methods of a kind that are there."""
    tables: dict[str, tuple[str, Any]] = {}
    there = {record.method for record in records if record.kind == kind}
    if choice.scale is None or (cosine := cosine_ce(choice.scale).name) not in there:
        return tables
    softmax = softmax_ce().name
    # At other scales there is another cosine CE to compare with
    others = [
        m for m in _methods(records, kind, choice) if m != cosine and not _other_scale(m, choice)
    ]
    tables["differences to cosine CE"] = differences_table(records, others, cosine, kind)
    margins = {
        f"IGAM {pair}": igam(*pair.split("/"), choice.scale).name
        for pair in dict.fromkeys(("mean/none", f"{choice.reading}/{choice.shrinkage}"))
        if choice.reading is not None or pair == "mean/none"
    }
    for label, method in margins.items():
        if method not in there:
            continue
        if softmax in there:
            tables[f"softmax CE, cosine CE, {label}"] = decomposition_table(
                records, softmax, cosine, method, kind
            )
        tables[f"what {label} changes, and for whom"] = gain_by_information(
            records, method, cosine, kind
        )
    if softmax in there:
        tables["what cosine CE changes, and for whom"] = gain_by_information(
            records, cosine, softmax, kind
        )
    if choice.reading is not None:
        chosen = _chosen(choice).name
        rest = [m for m in _grid(choice).values() if m in there and m != chosen]
        if chosen in there and rest:
            tables["the other readings, against the chosen one"] = differences_table(
                records, rest, chosen, kind, baseline_label="the chosen reading"
            )
        sampled = [m.with_repeats().name for m in (cosine_ce(choice.scale), _chosen(choice))]
        if set(sampled) <= there:
            tables["IGAM against cosine CE, both with repeat-factor sampling"] = differences_table(
                records, sampled[1:], sampled[0], kind
            )
    for reading, shrinkage in GRID:
        pair = [igam(reading, shrinkage, choice.scale, opposite=o).name for o in (False, True)]
        if set(pair) <= there:
            tables[f"the opposite sign, {reading}/{shrinkage}"] = differences_table(
                records, pair[1:], pair[0], kind, baseline_label="the sign as printed"
            )
    if choice.reading is not None and kind == CACHED:
        for scale in _scales(choice):
            own, other = cosine_ce(scale).name, igam(choice.reading, choice.shrinkage, scale).name
            if {own, other} <= there:
                tables[f"IGAM against cosine CE, s = {scale}"] = differences_table(
                    records, [other], own, kind
                )
    return tables


def _figures(records: Sequence[RunRecord], choice: Choice) -> list[Drawing]:
    """Those for which there are runs."""
    softmax = softmax_ce().name
    makers: list[Callable[[], Drawing]] = [lambda: ap_figure(records, softmax, FULL)]
    if choice.scale is not None:
        cosine = cosine_ce(choice.scale).name
        best = igam(choice.reading or "mean", choice.shrinkage or "none", choice.scale).name
        for kind in (FULL, CACHED):
            others = [m for m in _methods(records, kind, choice) if m != cosine]
            others = [m for m in others if not _other_scale(m, choice)]
            makers += [
                partial(differences_figure, records, others, cosine, kind, f"differences_{kind}"),
                partial(gain_figure, records, cosine, softmax, kind, f"gain_cosine_{kind}"),
                partial(gain_figure, records, best, cosine, kind, f"gain_igam_{kind}"),
            ]
        makers += [
            lambda: ap_figure(records, cosine, FULL),
            lambda: grid_figure(records, _grid(choice), cosine, CACHED),
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


def _methods(records: Sequence[RunRecord], kind: str, choice: Choice) -> list[str]:
    """Of a kind, in the order of the plan, those that a seed is done of."""
    there = {record.method for record in records if record.kind == kind}
    planned = [m.name for step in steps(choice) for k, m in step.runs if k == kind]
    return [name for name in planned if name in there]


def _other_scale(method: str, choice: Choice) -> bool:
    found = re.search(r"_s(\d+)", method)
    return found is not None and int(found[1]) != choice.scale


def _grid(choice: Choice) -> dict[tuple[str, str], str]:
    return {pair: igam(*pair, choice.scale).name for pair in GRID}


def _chosen(choice: Choice) -> Method:
    return igam(choice.reading, choice.shrinkage, choice.scale)


def _scales(choice: Choice) -> tuple[int, ...]:
    return (BELOW, *SCALES) if choice.scale == min(SCALES) else SCALES


def _series(choice: Choice) -> dict[str, dict[int, str]]:
    scales = _scales(choice)
    series = {"cosine CE": {s: cosine_ce(s).name for s in scales}}
    if choice.reading is not None:
        pair = choice.reading, choice.shrinkage
        label = f"IGAM {choice.reading}, {choice.shrinkage}"
        series[label] = {s: igam(*pair, s).name for s in scales}
    return series
