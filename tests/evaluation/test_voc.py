"""The Pascal VOC evaluator against Detectron2's."""

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from igam_d2.errors import InputError
from igam_d2.evaluation import PascalVOCEvaluator

NAME = "random_voc_test"
CLASSES = ["cat", "dog", "cow", "car", "bus", "tram", "boat"]  # no boat anywhere
IMAGES = [f"2007_{i:06d}" for i in range(12)]


@pytest.fixture(params=[2007, 2012])
def objects(request, tmp_path):
    """A random tree of Pascal VOC, registered: image -> [(class, box)]."""
    rng = np.random.default_rng(0)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("\n".join(IMAGES) + "\n")
    objects = {}
    for name in IMAGES:
        objects[name], xml = [], ""
        for _ in range(rng.integers(1, 6)):
            left, top = rng.integers(1, 60, 2)
            width, height = rng.integers(10, 60, 2)
            box = (left, top, left + width, top + height)
            kind = rng.integers(len(CLASSES) - 1)
            objects[name].append((kind, np.array(box)))
            corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            xml += (
                f"<object><name>{CLASSES[kind]}</name><pose>x</pose><truncated>0</truncated>"
                f"<difficult>{int(rng.random() < 0.2)}</difficult><bndbox>"
                + "".join(f"<{key}>{value}</{key}>" for key, value in corners)
                + "</bndbox></object>"
            )
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{xml}</annotation>")
    MetadataCatalog.get(NAME).set(
        thing_classes=CLASSES,
        dirname=str(tmp_path),
        year=request.param,
        split="test",
        evaluator_type="pascal_voc",
    )
    yield objects
    MetadataCatalog.remove(NAME)


def _detect(evaluators, objects) -> None:
    """Give the same moved boxes and noise to evaluators."""
    rng = np.random.default_rng(1)
    for name, found in objects.items():
        boxes = [box + rng.normal(0, 3, 4) for _, box in found for _ in range(2)]
        classes = [kind for kind, _ in found for _ in range(2)]
        instances = Instances((128, 128))
        instances.pred_boxes = Boxes(torch.tensor(np.array(boxes)))
        instances.scores = torch.from_numpy(rng.integers(0, 12, len(boxes)) / 12)
        instances.pred_classes = torch.tensor(classes)
        for evaluator in evaluators:
            evaluator.process([{"image_id": name}], [{"instances": instances}])


def test_metrics_equal_detectron2s(objects, tmp_path):
    ours, theirs = PascalVOCEvaluator(NAME, tmp_path / "out"), PascalVOCDetectionEvaluator(NAME)
    theirs._class_names = CLASSES[:-1]  # it averages a class that no image has as NaN
    ours.reset()
    theirs.reset()
    _detect([ours, theirs], objects)
    result, expected = ours.evaluate()["bbox"], theirs.evaluate()["bbox"]
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert 5 < result["AP"] < 95
    class_ap = np.array([result[f"AP-{name}"] for name in CLASSES])
    assert np.isnan(class_ap[-1]) and np.isfinite(class_ap[:-1]).all()
    assert class_ap[:-1].mean() == pytest.approx(result["AP50"])
    assert result["AP50_hardest"] == pytest.approx(np.sort(class_ap[:-1])[:5].mean())
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["class_metric"] == "AP50" and written["groups"] == []
    assert written["bias"]["bbox"]["num_left_out"] == 1
    # What the report reads
    truth = json.loads((tmp_path / "out" / "ground_truth.json").read_text())
    kind, box = objects[IMAGES[0]][0]
    first = truth["annotations"][0]
    assert first["category_id"] == kind + 1
    assert first["bbox"] == [*(box[:2] - 1), *(box[2:] - box[:2] + 1)]
    assert truth["images"][0] == {"id": 1, "file_name": f"JPEGImages/{IMAGES[0]}.jpg"}


def test_input_that_does_not_fit(objects, tmp_path):
    evaluator = PascalVOCEvaluator(NAME)
    with pytest.raises(InputError, match=r"image '2007_x', which .*test\.txt does not list"):
        evaluator.process([{"image_id": "2007_x"}], [{"instances": Instances((1, 1))}])
    (tmp_path / "Annotations" / f"{IMAGES[3]}.xml").write_text("<annotation><obj")
    with pytest.raises(InputError, match=rf"{IMAGES[3]}\.xml of .* no annotation of Pascal VOC"):
        evaluator.reset()  # before the inference
    (tmp_path / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(InputError, match=r"Main/test\.txt should list its images"):
        PascalVOCEvaluator(NAME)
