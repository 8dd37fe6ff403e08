"""A small Meshes-LT: its annotations, its images, and what is made when."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_meshes import SMALL, MadeUpRenderer, assert_area, draw_made_up, load, make_small

from igam_d2.data import meshes_lt
from igam_d2.data.digits_lt import frequency_group
from igam_d2.data.meshes_lt import SUMS, make_meshes_lt
from igam_d2.data.meshes_lt_images import MIN_VISIBLE
from igam_d2.data.meshes_lt_plan import SPLITS, Parameters, plan
from igam_d2.data.own_data import OwnDataset
from igam_d2.errors import InputError, TransientError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the set in a small version, of made-up cut-outs."""
    return make_small(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """The same with pybullet, where it is installed."""
    pytest.importorskip("pybullet")
    root = tmp_path_factory.mktemp("rendered")
    make_meshes_lt(root, jobs=1, **SMALL)
    return root


@pytest.fixture(params=["root", "rendered"])
def either(request) -> Path:
    return request.getfixturevalue(request.param)


def test_counts_are_exact(either):
    data = load(either)
    parameters = Parameters(**SMALL)
    categories = data["train"]["categories"]
    assert all(data[split]["categories"] == categories for split in SPLITS)
    for split in SPLITS:
        images = defaultdict(list)
        for annotation in data[split]["annotations"]:
            images[annotation["category_id"]].append(annotation["image_id"])
        for category in categories:
            mine = images[category["id"]]
            if split == "train":
                assert category["image_count"] == len(set(mine))
                assert category["instance_count"] == len(mine)
                assert category["frequency"] == frequency_group(len(set(mine)))
            else:
                assert len(set(mine)) == 3
            assert max(Counter(mine).values()) <= 2
    _, counts = plan(parameters)
    assert [category["image_count"] for category in categories] == counts.tolist()
    assert [len(data[split]["images"]) for split in SPLITS] == [30, 10, 10]


def test_absent_classes_are_the_negatives(root):
    for data in load(root).values():
        present = defaultdict(set)
        for annotation in data["annotations"]:
            present[annotation["image_id"]].add(annotation["category_id"])
        for image in data["images"]:
            assert image["neg_category_ids"] == sorted(set(range(1, 11)) - present[image["id"]])
            assert image["not_exhaustive_category_ids"] == []


def test_boxes_areas_and_outlines_agree(either):
    for data in load(either).values():
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert 0 <= x < x + w <= 64 and 0 <= y < y + h <= 64
            points = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
            extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
            np.testing.assert_allclose(extent, [x, y, x + w, y + h], atol=0.5)
            assert_area(annotation["segmentation"], annotation["area"])
            assert annotation["visible"] >= MIN_VISIBLE - 0.001


def test_splits_share_no_pixel_of_a_photo(root):
    crops = {
        split: [(image["photo"], *image["crop"]) for image in data["images"]]
        for split, data in load(root).items()
    }
    for first, second in (SPLITS[:2], SPLITS[1:], SPLITS[::2]):
        for photo, x, y, w, h in crops[first]:
            for other, other_x, other_y, other_w, other_h in crops[second]:
                apart_x = x + w <= other_x or other_x + other_w <= x
                apart_y = y + h <= other_y or other_y + other_h <= y
                assert photo != other or apart_x or apart_y


def test_objects_are_rendered_and_lit_on_the_photo(rendered):
    """The colour of a mesh is seen where its mask is, and splits have different views."""
    data = load(rendered)["train"]
    head = max(data["categories"], key=lambda category: category["image_count"])
    seen, areas = [], set()
    for annotation in data["annotations"]:
        if annotation["category_id"] == head["id"]:
            with Image.open(rendered / f"meshes_lt/train/{annotation['image_id']:06d}.jpg") as file:
                x, y, w, h = (int(value) for value in annotation["bbox"])
                seen.append(np.asarray(file)[y : y + h, x : x + w].mean(axis=(0, 1)))
            areas.add(annotation["area"])
    assert np.mean(seen) > 40
    assert len(areas) > len(seen) / 2  # each is another view


def test_same_bytes_whatever_the_jobs(rendered, tmp_path):
    make_meshes_lt(tmp_path, jobs=2, **SMALL)
    sums = [(path / "meshes_lt" / SUMS).read_text() for path in (rendered, tmp_path)]
    assert sums[0] == sums[1]


def test_a_complete_set_is_left_alone(root, monkeypatch):
    monkeypatch.setattr(meshes_lt, "load_photos", lambda *_, **__: 1 / 0)
    assert make_meshes_lt(root, **SMALL)["test_json"].is_file()


def test_a_set_with_a_file_missing_is_made_again(root, tmp_path, monkeypatch):
    draw_made_up(monkeypatch)
    shutil.copytree(root / "meshes_lt", tmp_path / "meshes_lt")
    (tmp_path / "meshes_lt/train/000003.jpg").unlink()
    make_meshes_lt(tmp_path, jobs=1, **SMALL)
    assert (tmp_path / "meshes_lt/train/000003.jpg").is_file()
    assert (tmp_path / "meshes_lt" / SUMS).read_text() == (root / "meshes_lt" / SUMS).read_text()


def test_nothing_else_is_replaced(root, tmp_path):
    with pytest.raises(InputError, match=r"other parameters \(seed 0\): move it away, or .*--name"):
        make_meshes_lt(root, **SMALL | {"seed": 1})
    (tmp_path / "coco/train2017").mkdir(parents=True)
    with pytest.raises(InputError, match=r"coco' is something else than a set of Meshes-LT"):
        make_meshes_lt(tmp_path, **SMALL, name="coco")
    assert (tmp_path / "coco/train2017").is_dir()


def test_an_interrupted_make_leaves_nothing(tmp_path, monkeypatch):
    draw_made_up(monkeypatch)
    monkeypatch.setattr(meshes_lt, "categories_of", lambda *_: 1 / 0)  # images are written
    with pytest.raises(ZeroDivisionError):
        make_meshes_lt(tmp_path, jobs=1, **SMALL)
    assert list(tmp_path.iterdir()) == []


class Killed(MadeUpRenderer):
    def cutout(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)


class NoRoom(MadeUpRenderer):
    def cutout(self, *_):
        raise InputError("There is no room.")


class Mistaken(MadeUpRenderer):
    def plain_view(self, *_):
        return 1 / 0


@pytest.mark.skipif(sys.platform != "linux", reason="only a fork draws what was made up")
@pytest.mark.parametrize(
    ("renderer", "error", "message"),
    [
        (Killed, TransientError, "was killed.*fewer --jobs"),
        (NoRoom, InputError, "There is no room"),
        (Mistaken, ZeroDivisionError, "division"),
    ],
)
def test_a_process_that_fails_ends_all_and_leaves_nothing(
    tmp_path, monkeypatch, renderer, error, message
):
    draw_made_up(monkeypatch, renderer)
    with pytest.raises(error, match=message):
        make_meshes_lt(tmp_path, jobs=3, **SMALL)
    assert list(tmp_path.iterdir()) == [] and multiprocessing.active_children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only a fork draws what was made up")
def test_processes_make_the_same_bytes(root, tmp_path, monkeypatch):
    draw_made_up(monkeypatch)
    cv2.setNumThreads(2)
    cv2.resize(np.zeros((999, 999, 3), np.uint8), (2000, 2000))  # starts OpenCV's threads
    make_meshes_lt(tmp_path, jobs=3, **SMALL)
    assert (tmp_path / "meshes_lt" / SUMS).read_text() == (root / "meshes_lt" / SUMS).read_text()


def test_diversity_is_written_by_class(either):
    content = json.loads((either / "meshes_lt/diversity.json").read_text())
    names = {category["name"] for category in load(either)["train"]["categories"]}
    assert set(content["diversity"]) == set(content["image_count"]) == names
    assert all(0 < value < 1 for value in content["diversity"].values())
    value, low, high = content["spearman_with_image_count"]
    assert -1 <= low <= value <= high <= 1


def test_it_loads_as_own_data(root):
    data = load(root)
    for split in SPLITS:
        json_file = root / f"meshes_lt/annotations/meshes_lt_{split}.json"
        dataset = OwnDataset(
            f"meshes_{split}_of_a_test", str(json_file), str(root / "meshes_lt" / split), "lvis"
        )
        records = dataset()
        assert len(records) == len(data[split]["images"])
        assert all(Path(record["file_name"]).is_file() for record in records)
        assert sum(len(r["annotations"]) for r in records) == len(data[split]["annotations"])


def test_a_picture_of_the_objects(root, tmp_path):
    from igam_d2.data.meshes_lt_sheet import draw_sheet

    draw_sheet(root / "meshes_lt", tmp_path / "sheet.jpg", split="selection")
    picture = cv2.imread(str(tmp_path / "sheet.jpg")).astype(int)
    size = 2 * SMALL["image_size"]
    number = min(12, len(load(root)["selection"]["images"]))
    assert picture.shape == (size * -(-number // 4), 8 * size, 3)
    plain, drawn = picture[:size, :size], picture[:size, size : 2 * size]
    assert 0 < (abs(plain - drawn).max(axis=2) > 60).mean() < 0.5  # the same image with lines on it
    with pytest.raises(InputError, match=r"meshes_lt_train\.json.*cannot be read"):
        draw_sheet(tmp_path / "meshes_lt", tmp_path / "sheet.jpg")
