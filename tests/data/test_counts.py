"""Counts of classes against a loop, and the copy that is kept beside the annotations."""

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog

from igam_d2.data import ClassCounts, checks, class_counts, counts
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


def _of_the_last_class(number: int) -> list[dict]:
    annotation = {"image_id": 0, "category_id": 40, "bbox": [0, 0, 1, 1], "iscrowd": 0}
    return [{"id": 100 + i, **annotation} for i in range(number)]


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
    counts._read_file.cache_clear()  # as in another process
    monkeypatch.setattr(counts, "check_annotation_file", pytest.fail)
    assert class_counts(["counted"]).image_count.tolist() == first.image_count.tolist()
    monkeypatch.setattr(counts, "check_annotation_file", checks.check_annotation_file)
    dataset["annotations"] += _of_the_last_class(2)
    (tmp_path / "train.json").write_text(json.dumps(dataset))
    assert class_counts(["counted"]).instance_count[-1] == 2
    (tmp_path / "train.json.counts.json").write_text('{"sha256": "')
    counts._read_file.cache_clear()
    assert class_counts(["counted"]).instance_count[-1] == 2


def test_a_file_is_read_once_in_a_folder_that_one_may_only_read(dataset, tmp_path, monkeypatch):
    read = []

    def check_annotation_file(path, **kwargs):
        read.append(path)
        return checks.check_annotation_file(path, **kwargs)

    def refuse(*_):
        raise PermissionError("[Errno 13] Permission denied")

    monkeypatch.setattr(counts, "check_annotation_file", check_annotation_file)
    monkeypatch.setattr(counts, "write_whole", refuse)
    path = tmp_path / "train.json"
    first, *others = [class_counts(["counted"]).instance_count.tolist() for _ in range(4)]
    assert others == [first] * 3 and read == [str(path)]
    data = json.loads(path.read_text())
    data["annotations"] += _of_the_last_class(3)
    path.write_text(json.dumps(data))
    assert class_counts(["counted"]).instance_count.tolist() == [*first[:2], 3]
    assert read == [str(path)] * 2


@pytest.fixture
def register():
    """Registers a loader, or the records themselves, under a name, with this metadata."""
    names = []

    def register(name, load, **metadata):
        DatasetCatalog.register(name, load if callable(load) else lambda: load)
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_records_of_a_set_without_an_annotation_file(register):
    records = [  # two of one file, as crops are, and two without a name
        {"file_name": "a", "annotations": [{"category_id": 1}, {"category_id": 1}]},
        {"file_name": "a", "annotations": [{"category_id": 1}, {"category_id": 0, "iscrowd": 1}]},
        {"annotations": [{"category_id": 1}]},
        {},
    ]
    register("records", records, thing_classes=["x", "y"])
    found = class_counts(["records"])
    assert (found.image_count.tolist(), found.instance_count.tolist()) == ([0, 3], [0, 4])
    assert found.num_images == 4
    # One without annotations beside others adds images of background
    register("background", [{}] * 3, thing_classes=["x", "y"])
    both = class_counts(["records", "background"])
    assert both.instance_count.tolist() == [0, 4] and both.num_images == 7


def test_frequency_groups_have_the_limits_of_lvis():
    images = np.array([0, 1, 10, 11, 100, 101, 20000])
    assert ClassCounts(images, images, 30000).frequency == list("rrrccff")


def test_what_cannot_be_counted(dataset):
    with pytest.raises(InputError, match=r"no training set to count: name one in DATASETS\.TRAIN"):
        class_counts([])
    with pytest.raises(InputError, match=r"no data set 'conted': did you mean 'counted'"):
        class_counts(["conted"])


@pytest.mark.parametrize(
    "load, metadata, message",
    [
        (
            [{"annotations": [{"category_id": 0}]}],
            {},
            "'records' has no thing_classes, so its classes cannot be counted.",
        ),
        (
            [{"annotations": [{"bbox": [0, 0, 1, 1]}]}],
            {"thing_classes": ["x"]},
            "The annotations of records could not be read: KeyError 'category_id'.",
        ),
        (
            lambda: int("VOC"),
            {"thing_classes": ["x"]},
            "The annotations of records could not be read: ValueError invalid literal for int() "
            "with base 10: 'VOC'.",
        ),
        (
            [{"annotations": []}, {"annotations": [{"category_id": 0, "iscrowd": 1}]}, {}],
            {"thing_classes": ["x"]},
            "records has no annotations to count.",
        ),
    ],
)
def test_records_that_cannot_be_counted(register, load, metadata, message):
    register("records", load, **metadata)
    with pytest.raises(InputError) as info:
        class_counts(["records"])
    assert str(info.value) == message


def test_files_that_cannot_be_counted(dataset, tmp_path):
    path = tmp_path / "train.json"
    for annotations, message in (
        ([], "counted has no annotations to count."),
        ([{"id": 1, "image_id": 1, "bbox": []}], "annotations[0] has no 'category_id'."),
    ):
        path.write_text(json.dumps({**dataset, "annotations": annotations}))
        with pytest.raises(InputError) as info:
            class_counts(["counted"])
        assert str(info.value).endswith(message)


def test_sets_of_different_classes_are_not_added(dataset, register):
    records = [{"annotations": [{"category_id": 0}]}]
    register("two", records, thing_classes=["7", "2"])
    register("three", records, thing_classes=["2", "7", "40"])
    register("others", records, thing_classes=["2", "8", "40"])
    with pytest.raises(InputError, match="different numbers of classes: counted 3, two 2"):
        class_counts(["counted", "two"])
    both = class_counts(["counted", "others"])  # the metadata of one does not name them
    assert both.num_images == 13
    with pytest.raises(InputError) as info:
        class_counts(["counted", "three", "others"])
    assert str(info.value) == (
        "The data sets have different classes: class 1 is '7' in three and '8' in others."
    )
