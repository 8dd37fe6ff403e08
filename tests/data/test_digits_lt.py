import hashlib
import json
import runpy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from detectron2 import data as catalog
from PIL import Image

from igam_d2.data import digits_lt
from igam_d2.data.digits_lt import frequency_group, make_digits_lt
from igam_d2.data.register import register_digits_lt
from igam_d2.errors import InputError

SMALL = {
    "num_train_images": 200,
    "train_image_counts": (120, 110, 105, 102, 40, 20, 12, 10, 5, 2),
    "num_val_images": 60,
    "val_image_count": 30,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the set in a small version."""
    root = tmp_path_factory.mktemp("datasets")
    make_digits_lt(root, **SMALL)
    return root


@pytest.fixture(scope="module")
def splits(root) -> dict[str, dict]:
    return {
        split: json.loads((root / f"digits_lt/annotations/digits_lt_{split}.json").read_text())
        for split in ("train", "val")
    }


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _images_of_classes(data: dict) -> dict[int, list[int]]:
    images = defaultdict(list)
    for annotation in data["annotations"]:
        images[annotation["category_id"]].append(annotation["image_id"])
    return images


def test_same_seed_same_bytes(root, tmp_path):
    make_digits_lt(tmp_path / "again", **SMALL)
    make_digits_lt(tmp_path / "other", seed=1, **SMALL)
    digest = _digest(root / "digits_lt")
    assert _digest(tmp_path / "again" / "digits_lt") == digest
    assert _digest(tmp_path / "other" / "digits_lt") != digest


def test_complete_set_is_left_alone(root, monkeypatch):
    def fail():
        raise AssertionError("made again")

    monkeypatch.setattr(digits_lt, "_load_sources", fail)
    paths = make_digits_lt(root, **SMALL)
    assert paths["train_json"].is_file() and paths["val"].is_dir()
    with pytest.raises(AssertionError, match="made again"):
        make_digits_lt(root, seed=1, **SMALL)


def test_interrupted_make_is_redone(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(digits_lt, "_categories", lambda _: 1 / 0)  # after the images are written
        with pytest.raises(ZeroDivisionError):
            make_digits_lt(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []

    make_digits_lt(tmp_path, **SMALL)
    (tmp_path / "digits_lt/val/000001.jpg").unlink()
    make_digits_lt(tmp_path, **SMALL)
    assert _digest(tmp_path / "digits_lt") == _digest(root / "digits_lt")


def test_counts_and_groups(splits):
    train, val = splits["train"], splits["val"]
    assert train["categories"] == val["categories"]
    images = _images_of_classes(train)
    for category in train["categories"]:
        mine = images[category["id"]]
        assert category["image_count"] == len(set(mine))
        assert category["instance_count"] == len(mine)
        assert category["frequency"] == frequency_group(len(set(mine)))
        assert all(category[key] for key in ("name", "synset", "synonyms", "def"))
    counts = sorted((category["image_count"] for category in train["categories"]), reverse=True)
    assert tuple(counts) == SMALL["train_image_counts"]
    assert [category["id"] for category in train["categories"]] == list(range(1, 11))


@pytest.mark.parametrize("counts", [SMALL["train_image_counts"], digits_lt.TRAIN_IMAGE_COUNTS])
def test_every_group_has_three_classes(counts):
    groups = [frequency_group(count) for count in counts]
    assert all(groups.count(group) >= 3 for group in "rcf")


@pytest.mark.parametrize(
    ("count", "group"), [(1, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f")]
)
def test_frequency_group_is_that_of_lvis(count, group):
    assert frequency_group(count) == group


def test_validation_has_enough_of_every_class(splits):
    images = _images_of_classes(splits["val"])
    assert all(len(images[category_id]) >= 30 for category_id in range(1, 11))
    assert digits_lt.VAL_IMAGE_COUNT >= 30


@pytest.mark.parametrize("split", ["train", "val"])
def test_absent_classes_are_the_negatives(splits, split):
    present = defaultdict(set)
    for annotation in splits[split]["annotations"]:
        present[annotation["image_id"]].add(annotation["category_id"])
    for image in splits[split]["images"]:
        assert set(image["neg_category_ids"]) == set(range(1, 11)) - present[image["id"]]
        assert image["not_exhaustive_category_ids"] == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_polygons_and_areas_agree(splits, split):
    sizes = {image["id"]: (image["width"], image["height"]) for image in splits[split]["images"]}
    for annotation in splits[split]["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert x >= 0 and y >= 0 and w > 3 and h > 3 and x + w <= width and y + h <= height
        polygons = [np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]]
        points = np.concatenate(polygons)
        extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
        np.testing.assert_allclose(extent, [x, y, x + w, y + h], atol=1)
        area = 0.0
        for px, py in (polygon.T for polygon in polygons):
            area += abs(px @ np.roll(py, -1) - py @ np.roll(px, -1)) / 2
        assert area == pytest.approx(annotation["area"], rel=0.12, abs=3)


def test_ids_are_unique_and_images_are_there(root, splits):
    for split, data in splits.items():
        for key in ("images", "annotations"):
            ids = [entry["id"] for entry in data[key]]
            assert len(ids) == len(set(ids))
        for image in data["images"]:
            path = root / "digits_lt" / Path(*image["coco_url"].split("/")[-2:])
            assert path == root / "digits_lt" / split / image["file_name"]
            with Image.open(path) as opened:
                assert opened.size == (image["width"], image["height"])


def test_splits_share_no_sample_and_no_photo_pixel(splits):
    samples = {split: {a["sample"] for a in data["annotations"]} for split, data in splits.items()}
    assert not samples["train"] & samples["val"]

    val_crops = defaultdict(list)
    for image in splits["val"]["images"]:
        val_crops[image["photo"]].append(image["crop"])
    for image in splits["train"]["images"]:
        x, y, w, h = image["crop"]
        for other_x, other_y, other_w, other_h in val_crops[image["photo"]]:
            apart_x = x + w <= other_x or other_x + other_w <= x
            apart_y = y + h <= other_y or other_y + other_h <= y
            assert apart_x or apart_y


def test_bad_parameters(tmp_path):
    with pytest.raises(InputError):
        make_digits_lt(tmp_path, train_image_counts=(5, 4, 3))
    with pytest.raises(InputError):
        make_digits_lt(tmp_path, num_val_images=10)
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install igam_d2\[demo\]"):
        make_digits_lt(tmp_path)


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_ends_with_2(root, tmp_path, capsys):
    (tmp_path / "file").touch()
    command = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "prepare_digits_lt.py"))
    with pytest.raises(SystemExit) as end:
        command["main"](["--root", str(tmp_path / root)])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "(a part of the path is a file)" in line


def test_loads_through_detectron2(root, splits):
    names = ["digits_lt_train", "digits_lt_val"]
    kept = {n: catalog.DatasetCatalog.pop(n) for n in names if n in catalog.DatasetCatalog.list()}
    kept_metadata = {n: catalog.MetadataCatalog.pop(n) for n in kept}
    try:
        register_digits_lt(root)
        register_digits_lt("elsewhere")  # too late: the first stands
        for split, name in zip(("train", "val"), names, strict=True):
            dicts = catalog.DatasetCatalog.get(name)
            assert len(dicts) == len(splits[split]["images"])
            assert all(Path(record["file_name"]).is_file() for record in dicts)
            num_annotations = sum(len(record["annotations"]) for record in dicts)
            assert num_annotations == len(splits[split]["annotations"])
            classes = {a["category_id"] for record in dicts for a in record["annotations"]}
            assert classes == set(range(10))
            metadata = catalog.MetadataCatalog.get(name)
            assert metadata.evaluator_type == "lvis"
            assert Path(metadata.json_file).is_file()
            assert metadata.thing_classes == list(digits_lt.CLASS_NAMES)
    finally:
        for name in names:
            catalog.DatasetCatalog.pop(name)
            catalog.MetadataCatalog.pop(name)
        for name, loader in kept.items():
            catalog.DatasetCatalog.register(name, loader)
            catalog.MetadataCatalog[name] = kept_metadata[name]
