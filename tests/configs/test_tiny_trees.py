"""The tiny trees have what is particular to their formats."""

import json

from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO
from tiny_trees import NUM_TEST_IMAGES, NUM_TRAIN_IMAGES

from igam_d2.data import class_counts


def test_every_class_has_a_training_instance(datasets):
    for names, num_classes, num_images in (
        (("lvis_v1_train",), 1203, NUM_TRAIN_IMAGES + 1),  # one has no object
        (("coco_lt_train",), 80, NUM_TRAIN_IMAGES + 1),
        (("voc_2007_trainval", "voc_2012_trainval"), 20, NUM_TRAIN_IMAGES),
    ):
        counts = class_counts(names)
        assert counts.num_images == num_images
        assert counts.instance_count.tolist() == [len(names)] * num_classes


def test_lvis_is_federated(datasets):
    data = json.loads((datasets / "lvis" / "lvis_v1_val.json").read_text())
    assert len(data["images"]) == NUM_TEST_IMAGES + 1
    frequencies = [category["frequency"] for category in data["categories"]]
    assert [frequencies.count(f) for f in "rcf"] == [337, 461, 405]
    for image in data["images"]:
        shown = {a["category_id"] for a in data["annotations"] if a["image_id"] == image["id"]}
        assert image["neg_category_ids"] and not shown & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= shown


def test_coco_has_gaps_and_a_crowd(datasets, capsys):
    metadata = MetadataCatalog.get("coco_2017_val")
    assert max(metadata.thing_dataset_id_to_contiguous_id) == 90
    coco = COCO(metadata.json_file)
    (crowd,) = (a for a in coco.anns.values() if a["iscrowd"])
    assert coco.annToMask(crowd).sum() == crowd["area"]
    records = DatasetCatalog.get("coco_lt_train")
    assert sum(not record["annotations"] for record in records) == 1


def test_voc_has_difficult_objects(datasets):
    folder = datasets / "VOC2007" / "Annotations"
    text = "".join(path.read_text() for path in folder.glob("*_test_*.xml"))
    assert text.count("<difficult>1<") >= NUM_TEST_IMAGES and text.count("<object>") == 20
