"""Images that cannot be read: stop in one sentence, or are passed over up to a number."""

import logging
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch.utils.data import DataLoader

from igam_d2.data import CheckedMapper, build_train_loader
from igam_d2.data.mapper import EvaluationImages, TrainingImages, max_bad_images
from igam_d2.engine.launch import _without_traceback
from igam_d2.errors import InputError
from igam_d2.evaluation.evaluator import ClassEvaluator

SIZE = (60, 40)  # width, height


@pytest.fixture
def records(tmp_path):
    """Ten images, every other one upright, each with an object."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(10):
        width, height = SIZE[:: 1 - 2 * (i % 2)]
        path = tmp_path / f"{i}.jpg"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        box = {"bbox": [5, 5, 20, 20], "bbox_mode": 1, "category_id": i, "iscrowd": 0}
        record = {"file_name": str(path), "height": height, "width": width, "image_id": i}
        records.append(record | {"annotations": [box]})
    return records


@pytest.fixture
def mapper(cfg):
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    return CheckedMapper(cfg, is_train=True)


def spoil(tmp_path, *numbers: int) -> None:
    for number in numbers:
        (tmp_path / f"{number}.jpg").write_bytes(b"no image")


def refused(call, *args) -> str:
    with pytest.raises(InputError) as info:
        call(*args)
    assert "\n" not in str(info.value) and "Traceback" not in str(info.value)
    return str(info.value)


def read(images, number: int) -> str:
    return images[number]["file_name"][-5:]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def spoil_png(path):  # of which decoders say so in another way than by an OSError
    Image.new("RGB", SIZE).save(path, "png")
    content = bytearray(path.read_bytes())
    content[40:44] = b"XXXX"
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda path: path.write_bytes(b"no image"), "(cannot identify image file)"),
        (lambda path: path.write_bytes(b""), "(cannot identify image file)"),
        (lambda path: path.unlink(), "(No such file or directory)"),
        (truncate, "truncated"),
        (spoil_png, "cannot be read ("),
        (lambda path: Image.new("RGB", (9, 7)).save(path), "9 x 7 pixels, the annotations say 60"),
        (lambda path: (path.unlink(), path.mkdir()), "(Is a directory)"),
    ],
)
def test_the_sentence_has_the_name_and_the_reason(tmp_path, records, mapper, change, reason):
    change(tmp_path / "4.jpg")
    state = np.random.get_state()[1].tolist()
    for call, argument in ((mapper, records[4]), (TrainingImages(records, mapper).__getitem__, 4)):
        message = refused(call, argument)
        assert "4.jpg' cannot be read (" in message and reason in message
        assert message.endswith("passed over with DATALOADER.MAX_BAD_IMAGES.")
    assert np.random.get_state()[1].tolist() == state
    assert mapper(records[5])["instances"].gt_classes.tolist() == [5]


def test_mistakes_elsewhere_stay_what_they_are(records, cfg):
    class Broken(T.Augmentation):
        def get_transform(self, image):
            raise OSError("of the augmentation")

    mapper = CheckedMapper(is_train=True, augmentations=[Broken()], image_format="BGR")
    with pytest.raises(OSError, match="of the augmentation"):
        mapper(records[0])


@pytest.mark.parametrize("masks", [False, True])
def test_a_training_record_without_annotations_has_no_objects(records, cfg, masks):
    cfg.MODEL.MASK_ON = masks
    mapper = CheckedMapper(cfg, is_train=True)
    del records[2]["annotations"]
    found = mapper(records[2])["instances"]
    empty = mapper(records[2] | {"annotations": []})["instances"]
    assert len(found) == 0 and found.gt_boxes.tensor.shape == (0, 4)
    assert found.get_fields().keys() == empty.get_fields().keys()
    assert "annotations" not in records[2]  # which the data set keeps
    assert "instances" not in CheckedMapper(cfg, is_train=False)(records[2])


def test_the_next_of_the_group_takes_its_place_until_there_are_too_many(
    tmp_path, records, mapper, caplog
):
    groups = [i % 2 for i in range(10)]
    images = TrainingImages(records, mapper, max_bad=4, groups=groups)
    spoil(tmp_path, 2, 4, 9)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # in the second epoch nothing is counted or said again
            assert [read(images, i) for i in (1, 2, 4, 9)] == ["1.jpg", "6.jpg", "6.jpg", "1.jpg"]
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(lines) == 3 and "2.jpg' cannot be read" in lines[0]
    assert lines[2].endswith("another one takes its place (3 of at most 4 such images).")
    spoil(tmp_path, 0, 3)
    images[0]
    message = refused(images.__getitem__, 3)
    assert message.startswith("5 images cannot be read, and DATALOADER.MAX_BAD_IMAGES is 4: repair")
    assert "0.jpg'" in message and "3.jpg'" in message and message.count(".jpg") == 3
    assert "and 2 more" in message
    spoil(tmp_path, *range(10))
    assert "None of 10" in refused(TrainingImages(records, mapper, max_bad=20).__getitem__, 0)


@pytest.mark.parametrize("allowed", [0, 2])
def test_workers_count_together_and_the_user_sees_one_sentence(tmp_path, records, mapper, allowed):
    spoil(tmp_path, 1, 4, 6)
    images = TrainingImages(records, mapper, max_bad=allowed)
    loader = DataLoader(images, batch_size=None, sampler=range(10), num_workers=2)
    message = refused(list, loader)
    assert "3 images cannot be read" in message if allowed else "'" in message
    images = TrainingImages(records, mapper, max_bad=3)
    loader = DataLoader(images, batch_size=None, sampler=range(10), num_workers=2)
    assert len(list(loader)) == 10 and images._is_bad.sum() == 3


def test_the_same_seed_and_a_resumed_run_have_the_same_images(tmp_path, records, cfg):
    spoil(tmp_path, 3, 8)
    cfg.DATALOADER.MAX_BAD_IMAGES = 2

    def batches(loader, number):
        batches = [[r["file_name"] for r in batch] for batch in islice(iter(loader), number)]
        assert not any(name[-5:] in ("3.jpg", "8.jpg") for batch in batches for name in batch)
        return batches

    def start():
        np.random.seed(5)
        return build_train_loader(cfg, records)

    whole, first = batches(start(), 12), start()
    seen, second = batches(first, 5), build_train_loader(cfg, records)
    second.batch_sampler.load_state_dict(first.batch_sampler.state_dict(5))
    assert seen + batches(second, 7) == whole
    cfg.DATALOADER.MAX_BAD_IMAGES = -1
    assert "is -1: it must be at least 0" in refused(max_bad_images, cfg)


def test_a_black_image_without_detections_stands_in_when_evaluating(tmp_path, records, cfg):
    spoil(tmp_path, 7)
    mapper = CheckedMapper(cfg, is_train=False)
    assert "7.jpg' cannot be read" in refused(EvaluationImages(records, mapper).__getitem__, 7)
    images = EvaluationImages(records, mapper, max_bad=1)
    black, other = images[7], images[5]
    assert not black["image"].any() and black["image"].shape == other["image"].shape == (3, 64, 43)
    assert set(black) == {*other, "unreadable"}
    with pytest.raises(InputError, match="cannot be read"):
        unsized = {key: records[7][key] for key in ("file_name", "image_id")}
        EvaluationImages([unsized], mapper, max_bad=1)[0]

    class Collecting(ClassEvaluator):
        _load_ground_truth = _evaluate_task = None

    evaluator = Collecting("nothing", distributed=False)
    found = {"pred_boxes": Boxes(torch.ones(3, 4)), "scores": torch.ones(3)}
    found = Instances((40, 60), **found, pred_classes=torch.zeros(3, dtype=torch.int64))
    evaluator.process([black, other], 2 * [{"instances": found}])
    detections, num_images = evaluator.collector.gather(distributed=False)
    assert detections.image_id.tolist() == [5, 5, 5] and num_images == 2


def test_the_log_has_the_sentence_without_a_traceback():
    for error, text in (
        (InputError("Image x: repair it."), "The training ends: Image x: repair it."),
        (RuntimeError("a mistake"), "Exception during training:"),
    ):
        info = (type(error), error, None)
        record = logging.LogRecord("", 40, "", 1, "Exception during training:", None, info)
        assert _without_traceback(record) and record.getMessage() == text
        assert (record.exc_info is None) == isinstance(error, InputError)
