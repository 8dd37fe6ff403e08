"""Figures of AP: by frequency group, by class, how even it is, and what it is lost by."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from igam_d2.class_statistics import model_bias

from .drawing import Drawing
from .run_folder import Run
from .style import (
    GRID,
    INK,
    MUTED,
    PAPER,
    by_frequency,
    group_legend,
    group_styles,
    new_figure,
    run_legend,
    run_name,
    run_style,
    shorten,
)

MAX_DOT_CLASSES = 40
TASKS = {"bbox": "box", "segm": "mask"}
TIDE = {
    "Cls": "wrong class",
    "Loc": "loosely placed",
    "Both": "both of these",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed object",
}


def ap_by_group(runs: Sequence[Run]) -> Drawing | str:
    """AP of all classes and of each group, a mark for each run."""
    tasks = [task for task in TASKS if any(task in run.metrics for run in runs)]
    rows = [("AP", "all classes", "")]
    rows += [(g["metric"], g["name"], g.get("rule") or "") for g in runs[0].groups]
    values = {
        task: np.array(
            [[_nan(run.metrics.get(task, {}).get(metric)) for run in runs] for metric, *_ in rows]
        )
        for task in tasks
    }  # (G + 1, N)
    if not any(np.isfinite(v).any() for v in values.values()):
        return "The results hold no AP."
    n = len(runs)
    height = max(0.62, 0.24 * n + 0.2)  # inches of a row
    figure = new_figure(0.9 + len(rows) * height + 0.25 * (n > 1))
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    step = (1 - min(0.22, 0.4 / height)) / n
    for ax, task in zip(axes, tasks, strict=True):
        ax.set(title=f"{TASKS[task].capitalize()} AP", xlabel="AP (%)")
        _zero_based(ax, values[task])
        for i in range(n):
            style = run_style(i) | {"ls": "none"}
            places = np.arange(len(rows)) + (i - (n - 1) / 2) * step
            ax.hlines(places, 0, np.nan_to_num(values[task][:, i]), color=style["color"], lw=1)
            ax.plot(values[task][:, i], places, ms=7, mec=PAPER, mew=0.6, clip_on=False, **style)
            for place, value in zip(places, values[task][:, i], strict=True):
                known = np.isfinite(value)
                missing = "no ground truth" if task in runs[i].metrics else "not evaluated"
                text = f"{value:.1f}" if known else missing
                _value(ax, value if known else 0, place, text, known)
        _rows(ax, [f"{name}\n{rule}" if rule else name for _, name, rule in rows])
    run_legend(figure, runs, line=False, marker=True)
    caption = "AP over all classes and over each group of classes by how frequent they are in "
    caption += "training. Farther right is better."
    if len(rows) == 1:
        caption = "AP over all classes; they are in no groups by how frequent they are."
    names = [name for _, name, _ in rows]
    alts = []
    for task in tasks:
        drawn = _evaluated(runs, task)
        title = f"{TASKS[task].capitalize()} AP by group"
        alt = _alt(title, [runs[i] for i in drawn], values[task].T[drawn], names)
        alts.append(alt + _left_out(runs, task))
    return Drawing("ap_by_group", figure, caption, " ".join(alts))


def class_ap(runs: Sequence[Run], task: str) -> Drawing | str:
    """A row for every class, a mark for each run that was evaluated for the task."""
    metric, first = runs[0].class_metric, runs[0]
    if len(first.classes) > MAX_DOT_CLASSES:
        return f"With {len(first.classes):,} classes see the table of classes."
    drawn = _evaluated(runs, task)
    values = np.array([runs[i].class_ap(task) for i in drawn])  # (N, K)
    order, counts, counted = by_frequency(first)
    figure = new_figure(1.2 + 0.27 * len(order) + 0.25 * (len(runs) > 1))
    ax = figure.subplots()
    ax.set(xlabel=f"{TASKS.get(task, task)} {metric} (%)")
    _zero_based(ax, values)
    known = np.isfinite(values).any(axis=0)
    rows = np.arange(len(order))
    ax.hlines(rows, 0, ax.get_xlim()[1], color=GRID, lw=0.8, zorder=1)
    shift = 0.4 / len(drawn)
    for j, i in enumerate(drawn):
        places = rows + (j - (len(drawn) - 1) / 2) * shift
        style = run_style(i) | {"ls": "none"}
        ax.plot(values[j, order], places, ms=6.5, mec=PAPER, mew=0.6, clip_on=False, **style)
    for row in rows[~known[order]]:
        _value(ax, 0, row, "no ground truth", False)
    names = {k: name for name, _, _, members in group_styles(first) for k in members}
    labels = [
        shorten(first.class_names[k])
        + (f"  {_count(counts[k])}" if counted else "")
        + (f"  {names[k]}" if first.groups else "")
        for k in order
    ]
    _rows(ax, labels)
    run_legend(figure, runs, drawn, line=False, marker=True)
    caption, alt = f"{metric} of every class", f"{metric} of {len(order)} classes for "
    alt += ", ".join(runs[i].name for i in drawn)
    if counted:
        caption += f", the class with most {counted} at the top; the number after a name is its "
        caption += counted
        fewest = [shorten(first.class_names[k]) for k in order[known[order]][-3:]]
        alt += f"; those with fewest {counted} are {', '.join(fewest)}" if fewest else ""
    return Drawing("class_ap", figure, f"{caption}.{_left_out(runs, task)}", f"{alt}.")


def model_bias_figure(runs: Sequence[Run], task: str) -> Drawing | str:
    """How far the classes' AP spread in each run that was evaluated for the task."""
    shown, few = [runs[i] for i in _evaluated(runs, task)], len(runs[0].classes) <= 100
    figure = new_figure(1.25 + 0.95 * len(shown))
    ax = figure.subplots()
    rng, texts, left_out = np.random.default_rng(0), [], 0
    for i, run in enumerate(shown):
        ap = run.class_ap(task)
        bias = (run.results.get("bias") or {}).get(task) or model_bias(ap)
        known = np.isfinite(ap)
        left_out = max(left_out, int((~known).sum()))
        jitter = rng.uniform(-0.2, 0.2, len(ap))
        for _, color, marker, members in group_styles(run):
            ax.scatter(
                ap[members], i + 0.1 + jitter[members], 26 if few else 9, color=color,
                marker=marker, alpha=0.85 if few else 0.6, lw=0, rasterized=not few,
            )  # fmt: skip
        if not known.any():
            ax.text(0.5, i, "no class has ground truth", color=MUTED, va="center")
            texts.append(f"{run.name}: unknown")
            continue
        mean, std = float(ap[known].mean()), _nan(bias.get("std"))
        ax.errorbar(mean, i - 0.27, xerr=std, fmt="D", color=INK, ms=5, capsize=4, lw=1.6)
        text = f"mean {mean:.1f}, standard deviation {std:.1f}, "
        text += f"variance {_nan(bias.get('variance')):.0f}"
        ax.text(1, i - 0.4, text, transform=ax.get_yaxis_transform(), ha="right", fontsize=9)
        texts.append(f"{run.name}: {text}")
    ax.set(xlabel=f"{TASKS.get(task, task)} {runs[0].class_metric} of a class (%)", xlim=(-2, 102))
    _rows(ax, [run_name(run, 36) for run in shown])
    group_legend(figure, runs[0])
    have, are = ("has", "is") if left_out == 1 else ("have", "are")
    without = f" {left_out:,} of {len(runs[0].classes):,} classes {have} no validation object and "
    without += f"{are} left out."
    return Drawing(
        "model_bias",
        figure,
        "Every class's AP as a point; the diamond is the mean of the classes, its whiskers one "
        "standard deviation. The variance (%²) is the model's bias: less is more even."
        + (without if left_out else "")
        + _left_out(runs, task),
        "Spread of the AP of the classes. " + "; ".join(texts) + ".",
    )


def tide(runs: Sequence[Run], task: str) -> Drawing | str:
    """What AP50 is lost by, bars of each run for each kind of error."""
    values = np.array(
        [
            [_nan(((run.results.get("tide") or {}).get(task) or {}).get(kind)) for kind in TIDE]
            for run in runs
        ]
    )  # (N, 6)
    if not np.isfinite(values).any():
        return (
            "The results hold no TIDE errors: the lvis backend (TEST.LVIS_BACKEND) does not "
            "compute them."
        )
    n = len(runs)
    figure = new_figure(1.0 + len(TIDE) * (0.26 + 0.17 * n) + 0.25 * (n > 1))
    ax = figure.subplots()
    ax.set(xlabel=f"{TASKS.get(task, task)} AP50 lost (points of %)")
    _zero_based(ax, values)
    height = 0.8 / n
    for i in range(n):
        places = np.arange(len(TIDE)) + (i - (n - 1) / 2) * height
        color = run_style(i)["color"]
        ax.barh(places, np.nan_to_num(values[i]), height * 0.86, color=color)
        if n > 1:
            marks = run_style(i) | {"ls": "none", "mec": PAPER, "mew": 0.6, "ms": 7}
            ax.plot(values[i], places, **marks)
        for place, value in zip(places, values[i], strict=True):
            known = np.isfinite(value)
            _value(ax, value if known else 0, place, f"{value:.1f}" if known else "unknown", known)
    _rows(ax, list(TIDE.values()))
    run_legend(figure, runs, line=False, marker=True)
    return Drawing(
        "tide",
        figure,
        "How many points of AP50 would be won if all errors of one kind were mended (TIDE). "
        "Shorter bars are better; the kinds do not add up to the whole loss.",
        _alt("AP50 lost by kind of error", runs, values, list(TIDE.values())),
    )


def _nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "unknown"


def _zero_based(ax: Axes, values: np.ndarray) -> None:
    """An axis from zero with room for the numbers at the marks."""
    finite = values[np.isfinite(values)]
    low = min(0.0, float(finite.min(initial=0)))
    ax.set_xlim(1.1 * low, low + 1.14 * max(float(finite.max(initial=0)) - low, 1.0))
    ax.grid(axis="y", visible=False)


def _rows(ax: Axes, labels: list[str]) -> None:
    ax.set_yticks(range(len(labels)), labels, color=INK)
    ax.set_ylim(len(labels) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="y", visible=False)


def _value(ax: Axes, x: float, y: float, text: str, known: bool) -> None:
    ax.annotate(
        text, (x, y), xytext=(7, 0), textcoords="offset points", va="center",
        fontsize=8.5, color=INK if known else MUTED,
    )  # fmt: skip


def _evaluated(runs: Sequence[Run], task: str) -> list[int]:
    """Indices of the runs that were evaluated for the task."""
    return [i for i, run in enumerate(runs) if task in run.metrics]


def _left_out(runs: Sequence[Run], task: str) -> str:
    """A sentence, after others, on the runs that were not evaluated for the task."""
    names = ", ".join(run.name for run in runs if task not in run.metrics)
    return f" Not evaluated for {TASKS.get(task, task)} AP: {names}." if names else ""


def _alt(title: str, runs: Sequence[Run], values: np.ndarray, names: Sequence[str]) -> str:
    """Words for numbers (N, M) of N runs."""
    parts = [
        f"{run.name}: "
        + ", ".join(
            f"{name} {value:.1f}" if np.isfinite(value) else f"{name} unknown"
            for name, value in zip(names, row, strict=True)
        )
        for run, row in zip(runs, values, strict=True)
    ]
    return f"{title}. " + "; ".join(parts) + "."
