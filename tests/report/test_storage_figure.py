"""The picture of storage by queue length, from numbers."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from igam_d2.report.storage_figure import draw_storage

COLORS = {"paper": (213, 94, 0), "ours": (0, 114, 178)}


def draw(path, n=605638, k=80, dim=128, queue_length=50000, optimal_length=68182):
    return draw_storage(
        path,
        num_instances=n,
        num_classes=k,
        embedding_dim=dim,
        queue_length=queue_length,
        optimal_length=optimal_length,
        everything=4 * n * dim,
        paper=lambda d: 4 * (d * dim + k * (n // d + 1) * dim**2),
        ours=lambda d: 4 * (d * (dim + 2) + k * dim * (dim + 1)),
    )


@pytest.mark.filterwarnings("error")  # of missing glyphs, equal limits, a layout that failed
@pytest.mark.parametrize(
    "numbers",
    [
        {"n": 1_270_000, "k": 1203, "dim": 1024, "optimal_length": 641_909},
        {"n": 2500, "k": 10, "optimal_length": 1257},  # a queue longer than the data set
        {"queue_length": 7},
        {"n": 1, "k": 1, "dim": 1, "queue_length": 1, "optimal_length": 1},
        {"n": 10**10, "k": 10**5, "dim": 2048, "optimal_length": 10**7},
    ],
)
def test_nothing_is_cut_off(tmp_path, numbers):
    with Image.open(draw(tmp_path / "new" / "storage.png", **numbers)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (edge == 255).all()


def test_both_curves_run_across_the_picture(tmp_path):
    pixels = np.asarray(Image.open(draw(tmp_path / "storage.png")).convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    plot = pixels[height // 4 :]  # below the legend
    rows = {}
    for name, color in COLORS.items():
        row, column = np.nonzero(np.abs(plot - color).sum(axis=2) < 12)
        assert column.min() < 0.2 * width and column.max() > 0.8 * width
        rows[name] = np.median(row[column < 0.3 * width])
    assert rows["paper"] < rows["ours"]  # with a short queue the paper's takes more


def test_without_detectron2_and_torch(tmp_path):
    code = (
        "import sys, warnings; warnings.simplefilter('ignore');"
        "sys.modules.update(detectron2=None, torch=None);"
        "import igam_d2.report.storage_figure"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
