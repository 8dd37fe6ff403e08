"""The report on runs: one page of everything that they left on disk."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np

from igam_d2.errors import InputError

from . import ap_figures, correlation_figure, information_figures, run_figures, tables
from .image_sections import (
    Objects,
    confusion_parts,
    detection_parts,
    file_name,
    gallery_heading,
    gallery_parts,
    load_objects,
)
from .page import Html, Section, check_writable, write_page
from .run_folder import Run, load_runs
from .style import STYLE


def write_report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    dataset: str | None = None,
    score_threshold: float = 0.3,
    task: str | None = None,
    max_rare: int | None = None,
    log: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> tuple[Path, list[Run]]:
    """Write `report.html` and its figures.

    Args:
        folders: of runs; the first readable one is what the others are compared with.
        output: folder to write into; it is made before annotations are read.
        dataset: of the evaluated ones; None is what the first run evaluated last.
        score_threshold: detections with a lower score are neither drawn nor counted.
        task: "bbox" or "segm" for the figures of classes; None is the first of the first run.
        max_rare: classes in the gallery; None is all of the rarest group.
        log: is told of runs that cannot be read, of what is left out, and of what takes long.

    Returns:
        The path of the page, and the runs in it.

    Raises:
        InputError: if no run can be read or none was evaluated for the task, an argument is out of
            its range, or the page or its figures cannot be written.
    """
    if not 0 <= score_threshold <= 1:
        raise InputError(f"--score-threshold {score_threshold:g} should be between 0 and 1.")
    if max_rare is not None and max_rare < 1:
        raise InputError(f"--max-rare {max_rare} should be a number of classes, at least 1.")
    runs, problems = load_runs(folders, dataset)
    if not runs:
        raise InputError("\n".join(problems))
    task = task or next(iter(runs[0].metrics))
    if not any(task in run.metrics for run in runs):
        raise InputError(
            f"No run was evaluated for {task}: {runs[0].results_file} has "
            f"{', '.join(runs[0].metrics)}, one of which --task would have to be."
        )
    for problem in problems:
        log(problem)
    path = Path(output) / "report.html"
    with _writing(output):  # before what takes long
        check_writable(path)
    notes: list[str] = []
    objects = load_objects(runs, task, score_threshold, max_rare, notes, log)
    for note in notes:
        log(note)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs on {runs[0].dataset}"
    with mpl.rc_context(STYLE), _writing(output):
        sections = _sections(runs, task, objects, notes, score_threshold, log)
        write_page(path, title, _header(runs, problems + notes), sections)
    return path, runs


@contextmanager
def _writing(output: str | Path) -> Iterator[None]:
    """Turn what goes wrong with files into a sentence on the output."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The report cannot be written to {output} ({error}): choose another --output."
        ) from error


def _header(runs: Sequence[Run], problems: Sequence[str]) -> Html:
    first = runs[0].results
    facts = [f"Data set {escape(runs[0].dataset)}", f"{len(runs[0].classes):,} classes"]
    if first.get("num_images") is not None:
        facts.append(f"{first['num_images']:,} images")
    instances = runs[0].column("val_instances")
    if np.isfinite(instances).any():
        facts.append(f"{np.nansum(instances):,.0f} validation objects")
    texts = []
    for run in runs:
        count = run.results.get("num_detections")
        texts.append(escape(run.name) + ("" if count is None else f", {count:,} detections"))
    lines = [f"<p>{', '.join(facts)}.</p>", tables.run_list(runs, texts)]
    if problems:
        items = "".join(f"<p>{escape(problem)}</p>" for problem in problems)
        lines.append(f'<div class="problems" role="note">{items}</div>')
    return Html("\n".join(lines))


def _sections(
    runs: list[Run],
    task: str,
    objects: Objects | None,
    notes: Sequence[str],
    score_threshold: float,
    log: Callable[[str], None],
) -> list[Section]:
    first = runs[0]
    metric_tables = [
        Html(tables.metrics_table(runs, name))
        for name in ap_figures.TASKS
        if any(name in run.metrics for run in runs)
    ]
    compared = f"Small numbers are differences to {first.name}." if len(runs) > 1 else ""
    ap_part = [Html(f'<p class="caption">{escape(compared)}</p>')] if compared else []
    with_margins = [r for r in runs if r.history is not None and r.history.potentials is not None]
    margins = [
        part
        for run in with_margins
        for part in (
            *([Html(f"<h3>{escape(run.name)}</h3>")] if len(runs) > 1 else []),
            information_figures.margins(run, file_name("margins", run, runs)),
        )
    ]
    without = "No run has margins: no information.jsonl holds potentials."
    gone = "This needs annotations and detections: " + " ".join(notes)
    image_sections = [
        ("detections", "Detections", detection_parts),
        ("rare", gallery_heading(runs, task), gallery_parts),
        ("confusion", "Confused classes", confusion_parts),
    ]
    return [
        Section("ap", "AP", ap_part + metric_tables),
        Section("groups", "AP by frequency group", [ap_figures.ap_by_group(runs)]),
        Section(
            "correlation",
            "AP, information and instances",
            [correlation_figure.ap_correlation(runs, task)],
        ),
        Section(
            "information",
            "Information amounts during training",
            [information_figures.information_history(runs)],
        ),
        Section("margin", "Margins between classes", margins or [without]),
        Section("bias", "Model bias", [ap_figures.model_bias_figure(runs, task)]),
        Section("errors", "Kinds of error", [ap_figures.tide(runs, task)]),
        Section("curves", "Learning curves", [run_figures.learning_curves(runs, task)]),
        Section("dots", "AP by class", [ap_figures.class_ap(runs, task)]),
        *(
            Section(
                name,
                heading,
                parts(objects, score_threshold, log) if objects and objects.runs else [gone],
            )
            for name, heading, parts in image_sections
        ),
        Section("table", "Table of classes", _class_table(runs, task)),
    ]


def _class_table(runs: Sequence[Run], task: str) -> list[Html]:
    text = "A click on a header sorts by it. An en dash is what is not known: no training counts, "
    text += "no information amount, or no validation object."
    parts = [Html(f'<p class="caption">{text}</p>')]
    if len(runs) > 1:  # what the marks in the headers say
        parts.append(Html(tables.run_list(runs, [escape(run.name) for run in runs])))
    return [*parts, Html(tables.class_table(runs, task))]
