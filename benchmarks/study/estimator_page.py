"""What estimator_bias.py says of its simulation: a page of tables, and a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from tabulate import tabulate

from igam_d2.files import write_whole
from igam_d2.functional import SHRINKAGES
from igam_d2.report.style import INK, STYLE, THOUSANDS, new_figure, run_style

__all__ = ["figure", "github_table", "markdown"]

LINEAR, TICKS = 10.0, (-50, -20, -10, -5, 0, 5, 10, 20, 50, 100, 200, 500, 1000)  # of bias


def markdown(result: dict[str, Any]) -> str:
    """The page with a table for each spectrum and one of the populations."""
    lines = [
        "# Bias of information amounts against the number of embeddings",
        "",
        f"{result['information']:.1f} bits in truth, D = {result['embedding_dim']}: mean ± "
        f"standard deviation over {result['draws']} draws, and the bias in brackets, in bits.",
    ]
    for name, spectrum in result["spectra"].items():
        rows = [
            [f"{n:,}"] + [_cell(spectrum["estimates"][key], i) for key in SHRINKAGES]
            for i, n in enumerate(result["counts"])
        ]
        lines += [
            "",
            f"## {name.capitalize()} spectrum, {spectrum['formula']}",
            "",
            f"Variances from {spectrum['largest']:.3g} to {spectrum['smallest']:.3g}, "
            f"{spectrum['trace']:.3g} in sum.",
            "",
            github_table(("n", *SHRINKAGES), rows),
        ]
    population = result["population"]
    low, high = population["information_range"]
    rows = []
    for name, of in population["spearman"].items():
        for what in ("information", "count"):
            entries = [entry[what] for entry in of.values()]
            cells = [f"{_rounded(entry['mean'], 2)} ± {entry['std']:.2f}" for entry in entries]
            rows.append([name, what, *cells])
    lines += [
        "",
        "## Populations with a long tail",
        "",
        f"{population['num_classes']:,} classes of {low:g} to {high:g} bits, log-uniform, and of "
        "counts drawn from LVIS v1's numbers of images whatever the bits: Spearman's correlation "
        "of the estimate with the true information and with the count, mean ± standard deviation "
        f"over {population['populations']} populations. The last column is what an estimate "
        f"without an error has; the classes of 'mixed' have any of the spectra.",
        "",
        github_table(("spectrum", "with", *SHRINKAGES, "truth"), rows),
        "",
    ]
    return "\n".join(lines)


def github_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In markdown, text to the left in the first column and to the right in the others."""
    align = ("left", *["right"] * (len(columns) - 1))
    # A table without rows has no columns to align
    align = align if rows else None
    return tabulate(rows, columns, tablefmt="github", disable_numparse=True, colalign=align)


def _cell(estimate: dict[str, list[float]], i: int) -> str:
    mean, std, bias = (estimate[key][i] for key in ("mean", "std", "bias"))
    return f"{mean:.1f} ± {std:.1f} ({_rounded(bias, 1, '+')})"


def _rounded(value: float, digits: int, sign: str = "") -> str:
    """Of a zero without a minus."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def figure(result: dict[str, Any], path: str | Path) -> Path:
    """Draws bias over n into one PNG, a panel for each spectrum; returns its path."""
    path = Path(path)
    lows_highs = []
    with mpl.rc_context(STYLE):
        drawn = new_figure(4.2)
        axes = drawn.subplots(1, len(result["spectra"]), squeeze=False, sharey=True)[0]
        for ax, (name, spectrum) in zip(axes, result["spectra"].items(), strict=True):
            ax.axhline(0, color=INK, lw=1)
            for i, (key, estimate) in enumerate(spectrum["estimates"].items()):
                bias, std = np.array(estimate["bias"]), np.array(estimate["std"])
                style = run_style(i)
                ax.plot(result["counts"], bias, label=key, lw=1.6, ms=4.5, **style)
                ax.fill_between(
                    result["counts"], bias - std, bias + std, color=style["color"], alpha=0.18, lw=0
                )
                lows_highs += [(bias - std).min(), (bias + std).max()]
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(THOUSANDS)
            ax.set_yscale("symlog", linthresh=LINEAR, linscale=1.5)
            ax.set_title(f"{name}: {spectrum['formula']}")
            ax.set_xlabel("embeddings n (log scale)")
        low, high = min(lows_highs), max(lows_highs)
        ticks = [tick for tick in TICKS if 1.3 * min(low, -5) <= tick <= 1.3 * max(high, 5)]
        axes[0].yaxis.set_major_locator(FixedLocator(ticks))
        axes[0].yaxis.set_minor_locator(NullLocator())
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+g}" if v else "0"))
        axes[0].set_ylabel(f"bias (bits; beyond ±{LINEAR:g} log scale)")
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.legend(
            handles, labels, loc="outside upper left", ncols=len(labels), handlelength=3,
            title=f"Estimate less the true {result['information']:.1f} bits, "
            f"D = {result['embedding_dim']}; band: standard deviation of {result['draws']} draws",
            alignment="left",
        )  # fmt: skip
        write_whole(path, lambda f: drawn.savefig(f, format="png", dpi=150))
    return path
