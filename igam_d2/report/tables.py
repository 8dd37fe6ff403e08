"""Tables: the metrics of all runs, and the classes."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from .ap_figures import TASKS
from .run_folder import Run
from .style import THEME, run_style, signed

NOTHING = "\N{EN DASH}"
SHAPES = {  # of RUN_MARKERS, in a box of 14
    "o": '<circle cx="7" cy="7" r="5"/>',
    "s": '<path d="M2.5 2.5h9v9h-9z"/>',
    "D": '<path d="M7 1l6 6-6 6-6-6z"/>',
    "^": '<path d="M7 1.5l6 11H1z"/>',
    "v": '<path d="M7 12.5l6-11H1z"/>',
    "P": '<path d="M5 1h4v4h4v4H9v4H5V9H1V5h4z"/>',
    "X": '<path d="M4 1l3 3 3-3 3 3-3 3 3 3-3 3-3-3-3 3-3-3 3-3-3-3z"/>',
}


def run_mark(i: int) -> str:
    """The marker of the i-th run as SVG."""
    role = f"run-{i % sum(key.startswith('run-') for key in THEME)}"
    shape = SHAPES[run_style(i)["marker"]]
    return f'<svg viewBox="0 0 14 14" aria-hidden="true" fill="var(--{role})">{shape}</svg>'


def run_list(runs: Sequence[Run], texts: Sequence[str]) -> str:
    """HTML: a mark and a text (HTML too) for each run; a single run has no mark."""
    marks = [run_mark(i) if len(runs) > 1 else "" for i in range(len(runs))]
    items = (f"<li>{mark}<span>{text}</span></li>" for mark, text in zip(marks, texts, strict=True))
    return f'<ul class="runs">{"".join(items)}</ul>'


def metric_names(runs: Sequence[Run], task: str) -> list[str]:
    """In the order of the results, each once."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics.get(task, {})))


def difference(value: float | None, first: float | None) -> float | None:
    """None where one of them is not known."""
    return None if value is None or first is None else value - first


def metrics_text(runs: Sequence[Run]) -> str:
    """The metrics in %, a row for each run and task, and below it the difference to the first."""
    heads = {
        task: f"{runs[0].dataset}, {TASKS[task]}"
        for task in TASKS
        if any(task in run.metrics for run in runs)
    }
    lines = []
    width = max(map(len, [*heads.values(), *(run.name for run in runs), "  difference"]))
    for task, head in heads.items():
        names = metric_names(runs, task)
        lines.append(_line(head, names, names, width))
        first = runs[0].metrics.get(task, {})
        for run in runs:
            values = [run.metrics.get(task, {}).get(name) for name in names]
            cells = ("-" if v is None else f"{v:.2f}" for v in values)
            lines.append(_line(run.name, cells, names, width))
            if run is runs[0]:
                continue
            changes = [difference(v, first.get(n)) for v, n in zip(values, names, strict=True)]
            cells = ("" if d is None else f"{d:+.2f}" for d in changes)
            lines.append(_line("  difference", cells, names, width))
    return "\n".join(lines)


def metrics_table(runs: Sequence[Run], task: str) -> str:
    """HTML: a row for each run, a column for each metric."""
    names = metric_names(runs, task)
    first = runs[0].metrics.get(task, {})
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for run in runs:
        cells = []
        for name in names:
            value = run.metrics.get(task, {}).get(name)
            change = None if run is runs[0] else difference(value, first.get(name))
            side = _change(change) if len(runs) > 1 else ""
            cells.append(f"<td>{_cell(value)}{side}</td>")
        rows.append(f'<tr><th scope="row">{escape(run.name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{TASKS[task]} AP of the runs">'
        f'<table class="metrics"><caption>{TASKS[task].capitalize()} AP (%)</caption>'
        f'<thead><tr><th scope="col">run</th>{head}</tr></thead>'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def class_table(runs: Sequence[Run], task: str) -> str:
    """HTML: a row for each class; report.js makes it sortable."""
    first, many = runs[0], len(runs) > 1
    group_names = {group["key"]: group["name"] for group in first.groups}
    rank = {group["key"]: i for i, group in enumerate(first.groups)}
    metric = escape(first.class_metric)
    information = [(run, run.information()) for run in runs]
    information = [(run, bits) for run, bits in information if bits is not None]
    ap = [run.class_ap(task) for run in runs]

    def of(run: Run) -> str:  # a mark, as names would make the columns too wide
        if not many:
            return ""
        mark, name = run_mark(runs.index(run)), escape(run.name)
        return f' <span class="mark" title="{name}">{mark}<span class="unseen">{name}</span></span>'

    heads = ["class", *(["group"] if group_names else [])]
    heads += ["training images", "training instances", "validation objects"]
    heads += [f"information (bits){of(run)}" for run, _ in information]
    heads += [f"{metric} (%){of(run)}" for run in runs]
    heads += [f"difference{of(run)}" for run in runs[1:]]
    rows = []
    for k, record in enumerate(first.classes):
        cells = [f'<th scope="row">{escape(record["name"])}</th>']
        if group_names:
            key = record["group"]
            group = escape(group_names.get(key, NOTHING))
            cells.append(f'<td class="text" data-sort="{rank.get(key, "")}">{group}</td>')
        for column in ("image_count", "instance_count", "val_instances"):
            value = record.get(column)
            cells.append(f"<td>{NOTHING if value is None else f'{value:,}'}</td>")
        cells += [f"<td>{_cell(bits[k])}</td>" for _, bits in information]
        cells += [f"<td>{_cell(values[k])}</td>" for values in ap]
        for values in ap[1:]:
            change = values[k] - ap[0][k]
            cells.append(f"<td>{signed(change) if np.isfinite(change) else NOTHING}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f'<th scope="col" class="text">{text}</th>'
        if text == "group"
        else f'<th scope="col">{text}</th>'
        for text in heads
    )
    return (
        '<p class="search" hidden><label>Classes whose name contains '
        '<input type="search" id="class-filter" autocomplete="off"></label> '
        '<output id="class-count" for="class-filter"></output></p>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="table of classes">'
        f'<table id="classes"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _line(first: str, cells: Iterable[str], names: Sequence[str], width: int) -> str:
    """A row of text, its cells under the names."""
    cells = (f"{cell:>{max(9, len(name) + 2)}}" for cell, name in zip(cells, names, strict=True))
    return (first.ljust(width) + "".join(cells)).rstrip()


def _cell(value: float | None) -> str:
    return NOTHING if value is None or not np.isfinite(value) else f"{value:.1f}"


def _change(value: float | None) -> str:
    if value is None:  # its room, so that the numbers stand under each other
        return " <span></span>"
    text = signed(value)
    kind = "up" if text.startswith("+") else "same" if text == "0.0" else "down"
    return f' <span class="{kind}">{text}</span>'
