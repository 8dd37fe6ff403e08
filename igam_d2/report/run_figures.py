"""Figures of a run's training, and of which classes it takes for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .ap_figures import TASKS
from .drawing import Drawing
from .information_figures import HEAT_MAP, matrix_numbers, matrix_ticks
from .run_folder import Run
from .style import EDGE, THOUSANDS, new_figure, run_legend, run_name, run_style, shorten

MAX_CURVE_POINTS = 400
MAX_MATRIX_CLASSES = 12


def learning_curves(runs: Sequence[Run], task: str) -> Drawing | str:
    """Total loss, foreground accuracy and AP over the iterations, a line for each run."""
    if not any(run.curve is not None for run in runs):
        return "No run has a metrics.json with its learning curve."
    panels = {
        "Total loss": {},
        "Foreground accuracy (%)": {},
        f"{TASKS.get(task, task)} AP (%)": {},
    }
    loss, accuracy, ap = panels.values()
    averaged = left_out = 0
    for i, run in enumerate(runs):
        if run.curve is None:
            continue
        curve = run.curve
        for target, values in (
            (loss, curve.total_loss),
            (accuracy, 100 * curve.foreground_accuracy),
        ):
            known = np.isfinite(values)
            if known.any():
                target[i] = (*block_means(curve.iterations[known], values[known]), "")
                averaged = max(averaged, -(-int(known.sum()) // MAX_CURVE_POINTS))
        left_out += int((~np.isfinite(curve.total_loss)).sum())
        x, y = curve.evaluations.get(f"{task}/AP", ((), ()))
        if len(x) > 1:
            ap[i] = (x, y, run_style(i)["marker"])
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        return "No metrics.json holds a loss, an accuracy or more than one AP."
    figure = new_figure(3.4 + 0.25 * (len(runs) > 1))
    for ax, (title, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        ax.set(title=title[0].upper() + title[1:], xlabel="iteration")
        for i, (x, y, marker) in lines.items():
            style = run_style(i) | {"marker": marker or ("." if len(x) == 1 else None)}
            ax.plot(x, y, lw=1.5, ms=5, **style)
        ax.margins(x=0.02, y=0.1)
        if title != f"{TASKS.get(task, task)} AP (%)":
            ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.xaxis.set_major_formatter(THOUSANDS)
    run_legend(figure, runs, line=True, marker=False)
    means = f" Each point is the mean of up to {averaged:,} logged values." if averaged > 1 else ""
    if left_out:
        what = "loss that is no number is" if left_out == 1 else "losses that are no number are"
        means += f" {left_out:,} {what} left out."
    last = [f"{runs[i].name}: {y[-1]:.3g} at the end" for i, (_, y, _) in loss.items()]
    return Drawing(
        "learning_curves",
        figure,
        "The training loss, the share of foreground proposals that get their class, and AP where "
        f"it was evaluated more than once.{means}",
        f"Learning curves; total loss of {'; '.join(last) or 'no run was logged'}.",
    )


def block_means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of as many neighbours each as leave few enough points; the last may be of fewer."""
    size = -(-len(x) // MAX_CURVE_POINTS)
    starts = np.arange(0, len(x), size)
    count = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / count, np.add.reduceat(y, starts) / count


def confusion_figure(
    run: Run, matrix: np.ndarray, classes: Sequence[int], name: str
) -> Drawing | str:
    """What the objects of some classes are taken for.

    Args:
        matrix: (K, K + 1) objects by true and predicted class, the last column "missed".
        classes: the rows and columns to show.
        name: of the figure.
    """
    rows = [k for k in classes if matrix[k].sum() > 0]
    if not rows:
        return f"{run.name}: no object of these classes is annotated."
    total = matrix[rows].sum(axis=1)
    some = len(classes) < len(run.classes)
    parts = [matrix[np.ix_(rows, classes)], matrix[rows, -1:]]
    columns = [shorten(run.class_names[k], 16) for k in classes] + ["missed"]
    if some:
        others = total - parts[0].sum(axis=1) - parts[1][:, 0]
        parts.insert(1, others[:, None])
        columns.insert(-1, "another class")
    percent = 100 * np.concatenate(parts, axis=1) / total[:, None]
    figure = new_figure(1.9 + 0.34 * len(rows))
    ax = figure.subplots()
    ax.pcolormesh(np.ma.masked_equal(percent, 0), cmap=HEAT_MAP, vmin=0, vmax=100)
    labels = [
        f"{shorten(run.class_names[k], 20)} ({n:,})" for k, n in zip(rows, total, strict=True)
    ]
    matrix_ticks(ax, labels, columns, turned=max(map(len, columns)) > 7)
    for line in (len(classes), len(classes) + 1) if some else (len(classes),):
        ax.axvline(line, color=EDGE, lw=1.2)
    for i, k in enumerate(rows):  # where the true class is
        ax.add_patch(Rectangle((classes.index(k), i), 1, 1, fill=False, ec=EDGE, lw=1.2))
    matrix_numbers(ax, np.where(percent < 0.5, 0, percent), 100, "{:.0f}")
    ax.set(xlabel="taken for", ylabel="true class (objects)")
    ax.set_title(run_name(run))
    right = np.array([percent[i, classes.index(k)] for i, k in enumerate(rows)])
    without = [shorten(run.class_names[k]) for k in classes if k not in rows]
    return Drawing(
        name,
        figure,
        f"Without an annotated object and not a row: {', '.join(without)}." if without else "",
        f"Confusion matrix of {run.name}: on average {right.mean():.0f} % of a class's objects are "
        f"recognised, least of {shorten(run.class_names[rows[int(right.argmin())]])} "
        f"({right.min():.0f} %); {percent[:, -1].mean():.0f} % are missed.",
    )
