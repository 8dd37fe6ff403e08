"""Counts of classes against a loop, and the copy that is kept beside the annotations."""

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog

from igam_d2.data import ClassCounts, checks, class_counts
from igam_d2.errors import InputError

IDS = [7, 2, 40]


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    annotations = [
        {
            "id": i,
            "image_id": int(rng.integers(9)),
            "category_id": IDS[rng.integers(2)],
            "bbox": [0, 0, 1, 1],
            "iscrowd": int(rng.random() < 0.2),
        }
        for i in range(40)
    ]
    data = {
        "images": [{"id": i, "height": 4, "width": 4} for i in range(12)],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in IDS],
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(data))
    DatasetCatalog.register("counted", list)
    MetadataCatalog.get("counted").set(json_file=str(path))
    yield data
    DatasetCatalog.remove("counted")
    MetadataCatalog.remove("counted")


def _expected(data: dict, ids: list[int]) -> tuple[list[int], list[int]]:
    mine = [[a for a in data["annotations"] if a["category_id"] == i] for i in ids]
    mine = [[a["image_id"] for a in found if not a["iscrowd"]] for found in mine]
    return [len(set(images)) for images in mine], [len(images) for images in mine]


def test_counts_in_contiguous_order(dataset, tmp_path):
    counts = class_counts(["counted"])
    expected = _expected(dataset, sorted(IDS))
    assert (counts.image_count.tolist(), counts.instance_count.tolist()) == expected
    assert counts.num_images == 12 and counts.instance_count[-1] == 0
    twice = class_counts(["counted", "counted"])
    assert twice.instance_count.tolist() == (2 * counts.instance_count).tolist()
    MetadataCatalog.get("counted").thing_dataset_id_to_contiguous_id = {40: 0, 2: 1, 7: 2}
    assert class_counts(["counted"]).image_count.tolist() == _expected(dataset, [40, 2, 7])[0]


def test_counts_are_kept_until_the_file_changes(dataset, tmp_path, monkeypatch):
    first = class_counts(["counted"])
    monkeypatch.setattr("igam_d2.data.counts.check_annotation_file", pytest.fail)
    assert class_counts(["counted"]).image_count.tolist() == first.image_count.tolist()
    monkeypatch.setattr("igam_d2.data.counts.check_annotation_file", checks.check_annotation_file)
    dataset["annotations"] += [{**dataset["annotations"][0], "category_id": 40, "iscrowd": 0}] * 2
    (tmp_path / "train.json").write_text(json.dumps(dataset))
    assert class_counts(["counted"]).instance_count[-1] == 2
    (tmp_path / "train.json.counts.json").write_text('{"sha256": "')
    assert class_counts(["counted"]).instance_count[-1] == 2


def test_records_of_a_set_without_an_annotation_file():
    records = [
        {"file_name": "a", "annotations": [{"category_id": 1}, {"category_id": 1}]},
        {"file_name": "b", "annotations": [{"category_id": 1}, {"category_id": 0, "iscrowd": 1}]},
    ]
    DatasetCatalog.register("counted_records", lambda: records)
    MetadataCatalog.get("counted_records").set(thing_classes=["x", "y"])
    try:
        counts = class_counts(["counted_records"])
    finally:
        DatasetCatalog.remove("counted_records")
        MetadataCatalog.remove("counted_records")
    assert (counts.image_count.tolist(), counts.instance_count.tolist()) == ([0, 2], [0, 3])


def test_frequency_groups_have_the_limits_of_lvis():
    images = np.array([0, 1, 10, 11, 100, 101, 20000])
    assert ClassCounts(images, images, 30000).frequency == list("rrrccff")


def test_what_cannot_be_counted(dataset):
    with pytest.raises(InputError, match=r"no training set to count: name one in DATASETS\.TRAIN"):
        class_counts([])
    with pytest.raises(InputError, match=r"no data set 'conted': did you mean 'counted'"):
        class_counts(["conted"])
