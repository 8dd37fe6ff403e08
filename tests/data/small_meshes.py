"""A small Meshes-LT for the tests, of made-up cut-outs: it needs no pybullet."""

import json
from pathlib import Path

import numpy as np
import pytest

from igam_d2.data import meshes_lt_work
from igam_d2.data.meshes_lt import make_meshes_lt
from igam_d2.data.meshes_lt_plan import SPLITS

SMALL = {
    "num_classes": 10,
    "num_train_images": 30,
    "image_size": 64,
    "classes_per_image": 3,
    "eval_images": 3,
}


class MadeUpRenderer:
    """Ellipses in place of pybullet's meshes."""

    def cutout(self, rng, mesh, size):
        height, width = int(size * rng.uniform(0.5, 1)) + 2, int(size) + 2
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        alpha = np.clip((1.05 - np.hypot(x, y)) * size / 2, 0, 1)
        alpha[[0, -1]], alpha[:, [0, -1]] = 0, 0
        colour = np.array([mesh * 5 % 256, mesh * 11 % 256, mesh * 17 % 256])
        return (colour * alpha[..., None]).astype(np.float32), alpha.astype(np.float32)

    plain_view = cutout

    def close(self):
        pass


def draw_made_up(patch: pytest.MonkeyPatch, renderer: type = MadeUpRenderer) -> None:
    patch.setattr(meshes_lt_work, "Renderer", renderer)
    patch.setattr(meshes_lt_work, "load_mesh", lambda number: number)


def make_small(root: Path) -> Path:
    """Make the set below a folder, and return that."""
    with pytest.MonkeyPatch.context() as patch:
        draw_made_up(patch)
        make_meshes_lt(root, jobs=1, **SMALL)
    return root


def load(root: Path) -> dict[str, dict]:
    folder = root / "meshes_lt/annotations"
    return {split: json.loads((folder / f"meshes_lt_{split}.json").read_text()) for split in SPLITS}


def assert_area(segmentation: list[list[float]], expected: float) -> None:
    """An outline runs at most an eighth of a pixel inside of its mask."""
    area = perimeter = 0.0
    for x, y in (np.reshape(polygon, (-1, 2)).T for polygon in segmentation):
        area += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        perimeter += np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
    assert abs(area - expected) <= perimeter / 8 + 0.5
