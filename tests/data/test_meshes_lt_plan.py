"""What Meshes-LT is planned to be, and how its pictures are put together."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_meshes import SMALL, MadeUpRenderer, assert_area

from igam_d2.data.digits_lt import frequency_group
from igam_d2.data.meshes_lt import make_meshes_lt
from igam_d2.data.meshes_lt_images import MIN_VISIBLE, compose
from igam_d2.data.meshes_lt_plan import Parameters, long_tail, plan, spread
from igam_d2.data.outlines import mask_box, mask_polygons
from igam_d2.data.photos import save_jpeg
from igam_d2.errors import InputError


def test_another_seed_gives_other_classes_and_counts():
    meshes, counts = plan(Parameters(seed=0))
    other_meshes, other_counts = plan(Parameters(seed=1))
    assert len(set(meshes)) == 100 and meshes.tolist() != other_meshes.tolist()
    assert counts.tolist() != other_counts.tolist()
    assert sorted(counts) == sorted(other_counts)
    assert 168 not in plan(Parameters(num_classes=999))[0]  # which is broken


def test_the_long_tail_is_that_of_lvis_and_fills_the_images():
    parameters = Parameters(num_classes=100, num_train_images=2000)
    counts = long_tail(parameters)
    assert counts.sum() == pytest.approx(8000, rel=0.01)
    assert counts.min() == 1 and np.all(np.diff(counts) >= 0)
    groups = Counter(frequency_group(count) for count in counts)
    assert min(groups.values()) >= 15
    assert long_tail(Parameters(num_classes=10, num_train_images=100)).max() == 100


def test_spread_gives_each_class_its_images():
    counts = np.array([1, 3, 20, 12])
    images = spread(np.random.default_rng(0), counts, 20)
    assert [sum(k in image for image in images) for k in range(4)] == counts.tolist()
    assert max(len(image) - len(set(image)) for image in images) <= 4


def test_what_is_visible_is_what_is_annotated():
    renderer = MadeUpRenderer()
    rng = np.random.default_rng(3)
    draw = [lambda rng, size, k=k: renderer.cutout(rng, k, size) for k in range(6)]
    covered = 0
    for _ in range(20):
        picture = compose(rng, np.zeros((96, 96, 3), np.float32), draw)
        for index, whole in enumerate(picture.areas):
            mask = picture.owner == index
            assert MIN_VISIBLE * whole <= mask.sum() <= whole
            covered += mask.sum() < whole
            x, y, w, h = mask_box(mask)
            assert mask[int(y) : int(y + h), int(x) : int(x + w)].sum() == mask.sum()
            assert_area(mask_polygons(mask), mask.sum())
    assert covered > 20  # objects do cover each other


def test_too_many_objects_are_refused():
    def draw(rng, size):
        return np.zeros((60, 60, 3), np.float32), np.ones((60, 60), np.float32)

    with pytest.raises(InputError, match="no room for 2 objects that each show 12 pixels"):
        compose(np.random.default_rng(0), np.zeros((64, 64, 3), np.float32), [draw, draw])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_classes", 9),
        ("num_classes", 1000),
        ("num_train_images", 0),
        ("image_size", 16),
        ("classes_per_image", 9),
        ("eval_images", 0),
        ("seed", -1),
        ("seed", 1.5),
        ("name", "a/b"),
        ("name", ""),
        ("jobs", 0),
        ("num_train_images", 3),
    ],
)
def test_bad_parameters(tmp_path, key, value):
    with pytest.raises(InputError, match="--") as error:
        make_meshes_lt(tmp_path, **SMALL | {key: value})
    assert str(error.value).count(". ") == 0
    assert list(tmp_path.iterdir()) == []


def test_missing_pybullet_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    for jobs in (1, 2):
        with pytest.raises(InputError, match=r"pip install igam_d2\[bench\].*Python 3\.11"):
            make_meshes_lt(tmp_path, jobs=jobs, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_cannot_be_written_is_an_error():
    if not Path("/dev/full").exists():
        pytest.skip("a device of Linux")
    with pytest.raises(OSError, match="No space left"):
        save_jpeg(Path("/dev/full"), np.zeros((64, 64, 3), np.uint8))
