"""Each mistake that a user's files may have is found before the training, in one sentence."""

import json
import logging
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from own_sets import CATEGORIES, CROWD, NAMES, NUM_IMAGES, write_set

from igam_d2.config import load_config
from igam_d2.data import check_test_datasets, load_training_set
from igam_d2.data.annotation_file import check_annotation_file
from igam_d2.data.own_data import OwnDataset, read_records
from igam_d2.engine import Trainer
from igam_d2.errors import InputError

SPLITS = ("train", "val")


@pytest.fixture
def configured(cfg, tmp_path, monkeypatch):
    """Writes a training and a test set of a format, and returns their config."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    before = set(DatasetCatalog.list())

    def write(kind: str = "coco"):
        sets = [
            {"name": f"own_{s}", "json": f"tools/{s}.json", "image_root": "tools", "format": kind}
            for s in SPLITS
        ]
        for split in SPLITS:
            write_set(tmp_path / "tools", kind, split, broken=False)
        cfg.OUTPUT_DIR = str(tmp_path / "output")
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CATEGORIES)
        cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN = sets, ("own_train",)
        cfg.DATASETS.TEST, cfg.SOLVER.MAX_ITER = ("own_val",), 2
        (tmp_path / "own.yaml").write_text(cfg.dump())
        loaded = load_config(str(tmp_path / "own.yaml"), [])
        loaded.defrost()
        return loaded

    yield write
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def refused(call, *args) -> str:
    with pytest.raises(InputError) as info:
        call(*args)
    message = str(info.value)
    assert "\n" not in message
    assert not any(name in message for name in ("TypeError", "KeyError", "AssertionError"))
    return message


def put(part: str, number: int, key: str, value):
    """Gives a record of the file another value."""

    def change(content: dict) -> None:
        content[part][number][key] = value

    return change


def corners(content: dict) -> None:
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]


def box(value):
    return put("annotations", 4, "bbox", value)


# What is done to a file, and what is said of it; of boxes the record is named with its place
MISTAKES = {
    "corners": (corners, ["boxes of own_", "a part outside its image", "annotations[|.png"]),
    "negative width": (box([9, 9, -3, 9]), ["1 of ", "no area", "annotations[4]|.png"]),
    "outside": (box([60, 9, 30, 9]), ["1 of ", "outside its image", "annotations[4]|.png"]),
    "NaN": (box([float("nan"), 9, 3, 9]), ["annotations[4]", "the bbox [nan, 9, 3, 9]"]),
    "no box": (box(None), ["annotations[4]", "the bbox None", "four numbers"]),
    "three numbers": (box([1, 2, 3]), ["annotations[4]", "the bbox [1, 2, 3]"]),
    "text in a box": (box([1, "2", 3, 4]), ["annotations[4]", "the bbox [1, '2', 3, 4]"]),
    "a box of text": (box("1234"), ["annotations[4]", "the bbox '1234'"]),
    "unknown category": (
        put("annotations", 4, "category_id", 99),
        ["annotations[4], of the id 4, has the category_id 99", "none of its categories"],
    ),
    "category of text": (
        put("annotations", 4, "category_id", "0"),
        ["annotations[4]", "the category_id '0'"],
    ),
    "unknown image": (put("annotations", 4, "image_id", 7), ["annotations[4]", "the image_id 7"]),
    "list of images": (put("annotations", 4, "image_id", [0]), ["annotations[4]", "image_id [0]"]),
    "id twice": (put("annotations", 4, "id", 3), ["two of its annotations", "annotations[4]"]),
    "image id twice": (put("images", 4, "id", 30), ["two of its images have the id 30"]),
    "image id of text": (put("images", 4, "id", "40"), ["the id of images[4] is '40'"]),
    "image id true": (put("images", 4, "id", True), ["the id of images[4] is True"]),
    "float category": (put("categories", 1, "id", 0.0), ["the id of categories[1] is 0.0"]),
    "crowd of text": (put("annotations", 4, "iscrowd", "0"), ["annotations[4]", "iscrowd '0'"]),
    "ignored": (put("annotations", 4, "ignore", 1), ["annotations[4]", "'ignore'"]),
    "area of text": (put("annotations", 4, "area", "9"), ["annotations[4]", "the area '9'"]),
    "name of a number": (put("images", 4, "file_name", 7), ["images[4]", "the file_name 7"]),
    "no height": (put("images", 4, "height", None), ["images[4]", "the height None"]),
    "missing image": (
        put("images", 4, "file_name", "train/no.png"),
        ["1 of the ", "are missing", "train/no.png'"],
    ),
    "missing folder": (
        put("images", 4, "file_name", "no/4.png"),
        ["Image folder", "tools/no'", "correct the image_root of 'own_", "DATASETS.REGISTER"],
    ),
    "no images": (lambda content: content["images"].clear(), ["its list 'images' is empty"]),
    "a record of text": (
        lambda content: content["annotations"].append("x"),
        ["annotations[", "has no 'id'"],
    ),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["coco", "lvis"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_before_the_training(configured, tmp_path, mistake, kind, split):
    change, parts = MISTAKES[mistake]
    path = tmp_path / f"tools/{split}.json"
    cfg = configured(kind)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    check = load_training_set if split == "train" else check_test_datasets
    message = refused(check, cfg)
    for part in parts:
        assert any(choice in message for choice in part.split("|")), message
    assert str(path) in message or f"of own_{split}" in message or f"'own_{split}'" in message
    assert "\n" not in refused(Trainer, cfg)


@pytest.mark.parametrize(
    "change, part",
    [
        (put("images", 4, "license", "CC"), "images[4]: field 'license'"),
        (put("categories", 1, "frequency", 3), "categories[1]: field 'frequency'"),
    ],
)
def test_what_cannot_be_evaluated(configured, tmp_path, change, part):
    cfg = configured()
    path = tmp_path / "tools/val.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    message = refused(check_test_datasets, cfg)
    assert f"{str(path)!r} of 'own_val' cannot be evaluated: {part}" in message


def test_a_good_set_passes_and_missing_classes_are_named(configured, caplog):
    cfg = configured()
    check_test_datasets(cfg)
    load_training_set(cfg)
    assert "1 of 4 classes has no training annotation: washer" in caplog.text


@pytest.mark.parametrize("filter_empty", [True, False])
@pytest.mark.parametrize("crowds", [True, False])
def test_nothing_to_train_on(configured, tmp_path, filter_empty, crowds):
    cfg = configured()
    path = tmp_path / "tools/train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if crowds and a["iscrowd"]]
    path.write_text(json.dumps(content))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    message = refused(load_training_set, cfg)
    assert f"own_train ({str(path)!r}) cannot be trained on: no image has an annotation" in message
    content["annotations"] = None
    path.write_text(json.dumps(content))
    assert "has no list 'annotations'" in refused(load_training_set, cfg)


def test_a_few_missing_images_may_be_allowed(configured, tmp_path):
    cfg = configured()
    for split, check in zip(SPLITS, (load_training_set, check_test_datasets), strict=True):
        for number in (3, 9):
            (tmp_path / f"tools/{split}/{number}.png").unlink()
        cfg.DATALOADER.MAX_BAD_IMAGES = 1
        total = NUM_IMAGES - 2 * (split == "train")  # of which empty ones are left out
        message = refused(check, cfg)
        assert f"2 of the {total} images of own_{split} are missing" in message
        assert "MAX_BAD_IMAGES allows 1" in message and f"tools/{split}/3.png'" in message
        cfg.DATALOADER.MAX_BAD_IMAGES = 2
        check(cfg)
        shutil.rmtree(tmp_path / "tools" / split)
        cfg.DATALOADER.MAX_BAD_IMAGES = 1000
        assert "Image folder" in refused(check, cfg)


def test_folders_in_the_place_of_files(configured, tmp_path):
    cfg = configured()
    for split, check in zip(SPLITS, (load_training_set, check_test_datasets), strict=True):
        path = tmp_path / f"tools/{split}.json"
        path.rename(tmp_path / f"{split}.json")
        path.mkdir()
        message = refused(check, cfg)
        assert f"{str(path)!r} of 'own_{split}' is a folder: correct its json" in message
        path.rmdir()
        (tmp_path / f"{split}.json").rename(path)
        images = path.with_suffix("")
        shutil.rmtree(images)
        images.touch()
        message = refused(check, cfg)
        assert f"{str(images)!r} of own_{split} is no folder: correct the image_root" in message


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_records_are_those_of_detectron2(tmp_path, kind, caplog):
    content = write_set(tmp_path, kind, "train")
    content["images"].reverse()  # records are in the order of their ids
    square, triangle = [[1, 1, 9, 1, 9, 9, 1, 9]], [1.5, 2, 3, 4, 5, 6]
    outlines = [square, [[1, 1, 2, 2]], [triangle, [1, 2, 3]], [], None]
    outlines.append({"size": [48, 64], "counts": "PP_1"})
    for annotation, outline in zip(content["annotations"][5:], outlines, strict=False):
        annotation["segmentation"] = outline
    content["annotations"][3] |= {"keypoints": [4, 5, 2, 6, 7, 0], "num_keypoints": 1}
    content["annotations"][4]["keypoints"] = []
    del content["annotations"][4]["segmentation"], content["annotations"][3]["iscrowd"]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    name = "compared_records"
    try:
        expected = load_coco_json(str(path), str(tmp_path), name)
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == NAMES
        dataset = OwnDataset(name, str(path), str(tmp_path), kind)
        with caplog.at_level(logging.WARNING):
            found = dataset()  # whose metadata may be known
        numbers = metadata.thing_dataset_id_to_contiguous_id
        assert read_records(dataset, check_annotation_file(str(path)), numbers) == found
    finally:
        MetadataCatalog.remove(name)
    assert "1 of " in caplog.text and "no polygon of three points" in caplog.text
    for record, image in zip(expected, content["images"][::-1], strict=True):
        if kind == "lvis":
            record |= {key: image[key] for key in image if key.endswith("category_ids")}
    assert found == expected
    assert isinstance(found[CROWD]["annotations"][0]["segmentation"]["counts"], bytes)


@pytest.mark.parametrize("outline", [[1, 2, 3, 4], {"size": [4, 4]}, 7])
def test_outlines_that_are_none(configured, tmp_path, outline):
    cfg = configured()
    path = tmp_path / "tools/train.json"
    content = json.loads(path.read_text())
    content["annotations"][6]["segmentation"] = outline
    path.write_text(json.dumps(content))
    message = refused(load_training_set, cfg)
    assert f"{str(path)!r} cannot be used: the segmentation of annotations[6]" in message
