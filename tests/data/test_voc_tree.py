"""Trees of Pascal VOC: what is missing is named before a training; what is odd but right passes."""

import math
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.structures import Boxes, Instances

from igam_d2.data import check_test_datasets, class_counts, load_training_set
from igam_d2.errors import InputError
from igam_d2.evaluation.voc import PascalVOCEvaluator

NAMES = {
    "tiny_2007": (2007, "trainval"),
    "tiny_2012": (2012, "trainval"),
    "tiny_test": (2007, "test"),
}


def xml(*objects: tuple[str, int]) -> str:
    """An annotation file with objects of (class, difficult)."""
    boxes = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
        f"<difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>40</xmax>"
        "<ymax>30</ymax></bndbox></object>"
        for name, difficult in objects
    )
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f"<annotation>{size}{boxes}</annotation>"


@pytest.fixture
def tree(cfg, tmp_path):
    """Both years, of a few images: one has only a difficult object, and one has none."""
    for name, (year, split) in NAMES.items():
        root = tmp_path / f"VOC{year}"
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        contents = {"a": xml(("dog", 0), ("cat", 1)), "hard": xml(("person", 1)), "none": xml()}
        images = {f"{split}_{key}": text for key, text in contents.items()}
        for image, text in images.items():
            (root / "Annotations" / f"{image}.xml").write_text(text)
            (root / "JPEGImages" / f"{image}.jpg").touch()
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        register_pascal_voc(name, str(root), split, year)
        MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_2007", "tiny_2012"), ("tiny_test",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 20
    yield tmp_path
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def refused(call, cfg) -> str:
    with pytest.raises(InputError) as info:
        call(cfg)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_images_with_only_difficult_objects_or_none(tree, cfg):
    records = load_training_set(cfg)
    assert len(records) == 4  # those with an object, of both years
    assert {len(record["annotations"]) for record in records} == {1, 2}
    assert class_counts(cfg.DATASETS.TRAIN).instance_count.sum() == 6
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(load_training_set(cfg)) == 6

    check_test_datasets(cfg)
    evaluator = PascalVOCEvaluator("tiny_test")
    evaluator.reset()
    for score, image in ((0.9, "test_a"), (0.8, "test_hard"), (0.7, "test_none")):
        found = Instances((30, 40))
        found.pred_boxes = Boxes(torch.tensor([[0.0, 1.0, 40.0, 30.0]]))
        found.scores, found.pred_classes = torch.tensor([score]), torch.tensor([11])  # a dog
        evaluator.process([{"image_id": image}], [{"instances": found}])
    result = evaluator.evaluate()["bbox"]
    assert result["AP-dog"] == pytest.approx(100)
    assert math.isnan(result["AP-person"]) and math.isnan(result["AP-cat"])  # difficult ones alone


@pytest.mark.parametrize(
    "path, what",
    [
        ("", "the folder of VOC 2012"),
        ("ImageSets/Main/trainval.txt", "the list of the trainval images"),
        ("Annotations", "the folder of the annotations"),
        ("JPEGImages", "the folder of the images"),
    ],
)
def test_a_tree_without_a_part_of_one_year(tree, cfg, path, what):
    missing = tree / "VOC2012" / path
    missing.unlink() if missing.is_file() else shutil.rmtree(missing)
    message = refused(load_training_set, cfg)
    assert message.startswith(f"'tiny_2012' could not be read: {what}, '{tree}/VOC2012")
    assert str(missing) in message and "DETECTRON2_DATASETS" in message
    assert "datasets/README.md" in message
    check_test_datasets(cfg)  # of the other year
    cfg.DATASETS.TEST = ("tiny_2012",)
    assert refused(check_test_datasets, cfg) == message


@pytest.mark.parametrize(
    "text, part",
    [
        (None, "is missing"),
        ("<annotation><obj", "is no XML file"),
        (xml(("dog", 0)).replace("<width>40</width>", ""), "it has no size/width"),
        (xml(("dog", 0)).replace(">40<", ">wide<"), "size/width is 'wide'"),
        (xml(("yeti", 0)), "the class 'yeti', which is not one of 20"),
    ],
)
def test_annotation_files_that_are_missing_or_broken(tree, cfg, text, part):
    for name, call in (("tiny_2012", load_training_set), ("tiny_test", check_test_datasets)):
        year, split = NAMES[name]
        path = tree / f"VOC{year}" / "Annotations" / f"{split}_hard.xml"
        path.unlink() if text is None else path.write_text(text)
        message = refused(call, cfg)
        assert f"'{path}' of '{name}'" in message and part in message


def test_what_only_the_evaluation_needs(tree, cfg):
    path = tree / "VOC2007" / "Annotations" / "test_a.xml"
    path.write_text(xml(("dog", 0)).replace("<xmin>1<", "<xmin>1.5<"))
    assert "bndbox/xmin is '1.5', where a whole number" in refused(check_test_datasets, cfg)
    path.write_text(xml(("dog", 0)).replace("<difficult>0</difficult>", ""))
    assert "it has no difficult" in refused(check_test_datasets, cfg)
    cfg.DATASETS.TRAIN = ("tiny_test",)
    assert len(load_training_set(cfg)) == 2
    (tree / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("test_a\n")
    assert "lists 1 images: Detectron2 reads two" in refused(load_training_set, cfg)
