"""Bad data sets are refused in one sentence, before anything is built."""

import json
import logging
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from igam_d2.data import check_annotation_file, check_test_datasets, load_training_set
from igam_d2.errors import InputError


def coco(num_images: int = 3) -> dict:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 50, "width": 80} for i in range(3)]
    annotations = [
        {"id": i, "image_id": i % 3, "category_id": 1 + i % 2, "bbox": [5, 5, 20, 30], "iscrowd": 0}
        for i in range(10 * num_images)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def dataset(cfg, tmp_path):
    """Registers a data set of two classes of which the test writes the files."""
    name, file, images = "checked", tmp_path / "annotations.json", tmp_path / "images"
    register_coco_instances(name, {"thing_classes": ["cat", "dog"]}, str(file), str(images))
    images.mkdir()
    for i in range(3):
        (images / f"{i}.jpg").touch()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    yield cfg, file, images
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def refused(call, *args) -> str:
    with pytest.raises(InputError) as info:
        call(*args)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_a_good_set_passes(dataset):
    cfg, file, _ = dataset
    file.write_text(json.dumps(coco()))
    check_test_datasets(cfg)
    assert sum(len(record["annotations"]) for record in load_training_set(cfg)) == 30


def test_names_files_folders_and_class_counts(dataset):
    cfg, file, images = dataset
    for call in (load_training_set, check_test_datasets):
        message = refused(call, cfg)
        assert str(file) in message and "DETECTRON2_DATASETS" in message
    file.write_text(json.dumps(coco()))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    for call in (load_training_set, check_test_datasets):
        message = refused(call, cfg)
        assert "NUM_CLASSES is 80" in message and "has 2 categories" in message
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    shutil.rmtree(images)
    for call in (load_training_set, check_test_datasets):
        message = refused(call, cfg)
        assert str(images) in message and "DETECTRON2_DATASETS" in message
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("chekced",)
    assert "did you mean 'checked'" in refused(load_training_set, cfg)
    cfg.DATASETS.TRAIN = ()
    assert "DATASETS.TRAIN is empty" in refused(load_training_set, cfg)


def test_test_sets_by_the_lvis_rules_need_the_folder_of_each_image(dataset):
    cfg, file, images = dataset
    MetadataCatalog.remove("checked")
    metadata = {"json_file": str(file), "image_root": str(images), "evaluator_type": "lvis"}
    MetadataCatalog.get("checked").set(thing_classes=["cat", "dog"], **metadata)
    content = coco()
    file.write_text(json.dumps(content))
    assert "'area'" in refused(check_test_datasets, cfg)
    for annotation in content["annotations"]:
        annotation["area"] = 600
    file.write_text(json.dumps(content))
    assert "it looks like COCO format" in refused(check_test_datasets, cfg)
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    file.write_text(json.dumps(content))
    assert "'coco_url'" in refused(check_test_datasets, cfg)
    for image in content["images"]:
        image["coco_url"] = "http://somewhere/val2017/1.jpg"
    file.write_text(json.dumps(content))
    assert "val2017" in refused(check_test_datasets, cfg)
    (images / "val2017").mkdir()
    (images / "val2017/1.jpg").touch()
    check_test_datasets(cfg)


def test_image_files_are_looked_for(dataset):
    cfg, file, images = dataset
    file.write_text(json.dumps(coco()))
    (images / "1.jpg").unlink()
    for call in (load_training_set, check_test_datasets):
        message = refused(call, cfg)
        assert "1 of the 3 images of checked" in message and "1.jpg'" in message
    cfg.DATALOADER.MAX_BAD_IMAGES = 1
    check_test_datasets(cfg)
    (images / "0.jpg").unlink()
    (images / "2.jpg").unlink()
    assert "3 of the 3 images" in refused(check_test_datasets, cfg)


def test_outlines_that_masks_are_made_of(dataset):
    cfg, file, _ = dataset
    content = coco()
    cfg.MODEL.MASK_ON = True
    file.write_text(json.dumps(content))
    assert "0.jpg' (checked) has no segmentation" in refused(load_training_set, cfg)
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[5, 5, 25, 5, 25, 35]]
    content["annotations"][3]["segmentation"] = {"size": [50, 80], "counts": [500, 400, 3100]}
    file.write_text(json.dumps(content))
    assert "run lengths: set it to bitmask" in refused(load_training_set, cfg)
    content["annotations"][3]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    records = load_training_set(cfg)
    content["annotations"][3]["iscrowd"], cfg.INPUT.MASK_FORMAT = 0, "bitmask"
    file.write_text(json.dumps(content))
    assert len(load_training_set(cfg)) == len(records) == 3


@pytest.mark.parametrize(
    "part, key, value, message",
    [
        ("images", "id", "7", "the id of images[2] is '7', and must be a whole number"),
        ("categories", "id", 1, "two of its categories have the id 1"),
        ("images", "file_name", None, "images[2] has no 'file_name'"),
    ],
)
def test_ids_and_names(dataset, part, key, value, message):
    cfg, file, _ = dataset
    content = coco()
    content[part][-1][key] = value
    if value is None:
        del content[part][-1][key]
    file.write_text(json.dumps(content))
    for call in (check_test_datasets, load_training_set):
        if call is check_test_datasets or value is None:
            assert message in refused(call, cfg)


def test_classes_are_numbered_alike_in_training_and_testing(dataset, caplog):
    cfg, file, _ = dataset
    file.write_text(json.dumps(coco()))
    DatasetCatalog.register("trained", list)
    try:
        cfg.DATASETS.TRAIN = ("trained",)
        MetadataCatalog.get("trained").thing_classes = ["dog", "cat"]
        message = refused(check_test_datasets, cfg)
        assert "class 0 is 'dog' in DATASETS.TRAIN, but 'cat' in 'checked'" in message
        MetadataCatalog.remove("trained")
        MetadataCatalog.get("trained").thing_classes = ["cat", "hound"]
        check_test_datasets(cfg)
        assert "class 1 is 'hound'" in caplog.text
    finally:
        DatasetCatalog.remove("trained")
        MetadataCatalog.remove("trained")


@pytest.mark.parametrize(
    "text, part",
    [
        ("{", "not a JSON object"),
        ("[1, 2]", "holds a list"),
        ('{"info": 1}', "no list 'images'"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            "images[0] has no 'height'",
        ),
    ],
)
def test_files_that_are_not_annotations(dataset, text, part):
    cfg, file, _ = dataset
    file.write_text(text)
    for call, argument in (
        (check_annotation_file, str(file)),
        (check_test_datasets, cfg),
        (load_training_set, cfg),
    ):
        message = refused(call, argument)
        assert str(file) in message and ("COCO" in message and "LVIS" in message)
        assert part in message or part == "not a JSON object"


@pytest.mark.parametrize(
    "box, part",
    [
        ([5, 5, 0, 10], "no area"),
        ([5, 5, 10, -3], "no area"),
        ([5, 5, float("nan"), 3], "no area"),
        ([70, 5, 20, 10], "outside its image"),
        ([-9, 5, 20, 10], "outside its image"),
    ],
)
def test_bad_boxes_stop_if_many_and_are_left_out_if_few(dataset, caplog, box, part):
    cfg, file, _ = dataset
    content = coco()
    content["annotations"][7]["bbox"] = box
    file.write_text(json.dumps(content))
    message = refused(load_training_set, cfg)
    assert part in message and "1 of 30 boxes" in message and "1.jpg" in message

    content = coco(200)
    content["annotations"][7]["bbox"] = box
    file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        records = load_training_set(cfg)
    assert sum(len(record["annotations"]) for record in records) == 1999
    assert part in caplog.text and "left out" in caplog.text


def test_boxes_within_rounding_pass(dataset):
    cfg, file, _ = dataset
    content = coco()
    content["annotations"][7]["bbox"] = [-0.4, 5, 81, 10]
    file.write_text(json.dumps(content))
    assert sum(len(record["annotations"]) for record in load_training_set(cfg)) == 30


def test_categories_beyond_the_class_count(dataset):
    cfg, file, _ = dataset
    file.write_text(json.dumps(coco()))
    DatasetCatalog.remove("checked")
    MetadataCatalog.remove("checked")  # with the class names known, Detectron2 finds it itself
    record = {"file_name": __file__, "height": 9, "width": 9, "image_id": 0}
    box = {"bbox": [1, 1, 3, 3], "bbox_mode": 1, "category_id": 2}
    DatasetCatalog.register("checked", lambda: [{**record, "annotations": [box]}])
    assert "category 2 after mapping" in refused(load_training_set, cfg)
