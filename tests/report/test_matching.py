"""Verdicts, confusions, margins and labels, each against a loop or a rule."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from igam_d2.report.ground_truth import Found, GroundTruth, load_ground_truth
from igam_d2.report.image_choice import choose_images, is_readable, open_image
from igam_d2.report.information_figures import margin_matrix
from igam_d2.report.labels import spread
from igam_d2.report.matching import (
    CORRECT,
    MISSED,
    NO_OBJECT,
    NOT_JUDGED,
    NOTHING,
    WRONG_CLASS,
    Outcome,
    compare,
    confusion,
    judge,
    judge_image,
    most_confused,
    pairwise_iou,
)
from igam_d2.report.run_folder import InformationHistory


def arrays(rng, num_images, num_boxes, num_classes):
    """Random boxes, of which many overlap: start, class_index, box."""
    start = np.concatenate([[0], np.cumsum(rng.integers(0, num_boxes, num_images))])
    n = start[-1]
    box = np.concatenate([rng.integers(0, 8, (n, 2)), rng.integers(6, 12, (n, 2))], axis=1)
    return start, rng.integers(0, num_classes, n), box.astype(float)


def random_data(seed, num_images=40, num_classes=4):
    rng = np.random.default_rng(seed)
    truth = GroundTruth(np.arange(num_images), [], *arrays(rng, num_images, 5, num_classes))
    start, classes, box = arrays(rng, num_images, 9, num_classes)
    score = rng.uniform(size=len(box))
    for low, high in pairwise(start):
        score[low:high] = np.sort(score[low:high])[::-1]
    return truth, Found(start, classes, box, score, 0)


def iou_of(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def test_judge():
    objects = np.array([[0, 0, 10, 10], [50, 50, 10, 10]])
    found = np.array(
        [[0, 1, 10, 9], [80, 80, 10, 10], [55, 50, 10, 10], [0, 0, 10, 9], [51, 50, 10, 10]]
    )  # right, nothing there, an IoU of 1/3, a worse one of an object that is taken, wrong class
    same = np.array([0, 1, 1, 0, 0])[:, None] == [0, 1]
    verdicts, finds = judge(pairwise_iou(found, objects), same)
    assert verdicts.tolist() == [CORRECT, NO_OBJECT, NO_OBJECT, NO_OBJECT, WRONG_CLASS]
    assert finds.tolist() == [0, NOTHING, NOTHING, NOTHING, NOTHING]
    assert judge(np.zeros((2, 0)), np.zeros((2, 0), bool))[0].tolist() == [NO_OBJECT] * 2


def one_image(objects, detections, **kwargs) -> tuple[GroundTruth, Found]:
    """(class, box) of objects, and (class, box) of detections from the best on."""
    columns = []
    for entries in (objects, detections):
        boxes = np.array([box for _, box in entries], dtype=float).reshape(-1, 4)
        columns += [np.array([k for k, _ in entries], dtype=int), boxes]
    truth = GroundTruth(np.zeros(1, int), [], np.array([0, len(objects)]), *columns[:2], **kwargs)
    score = np.linspace(0.9, 0.5, len(detections))
    return truth, Found(np.array([0, len(detections)]), *columns[2:], score, 0)


def test_a_detection_that_finds_an_object_is_no_confusion_of_another():
    person, shirt = (0, (0, 0, 10, 10)), (1, (0, 0, 10, 8))
    truth, found = one_image([person, shirt], [person, shirt])
    outcome = compare(truth, found, 0.3)
    assert outcome.found.all() and outcome.predicted.tolist() == [0, 1]
    truth, found = one_image([person, shirt], [person])
    assert compare(truth, found, 0.3).predicted.tolist() == [0, MISSED]


def test_nobody_is_wrong_about_what_was_not_annotated():
    box, elsewhere = (0, 0, 10, 10), (50, 50, 10, 10)
    detections = [(0, box), (1, box), (2, box), (2, elsewhere)]
    truth, found = one_image([(0, box)], detections, judged=[np.array([0, 1])])
    verdicts, _, _ = judge_image(truth, found, 0, slice(0, 4))
    assert verdicts.tolist() == [CORRECT, WRONG_CLASS, NOT_JUDGED, NOT_JUDGED]
    assert compare(truth, found, 0.3).false.tolist() == [1]
    truth, found = one_image([(0, box)], detections)
    assert compare(truth, found, 0.3).false.tolist() == [3]


def test_a_detection_in_a_crowd_of_its_class_is_not_wrong():
    crowd = {0: (np.array([1]), np.array([[0.0, 0, 40, 40]]))}
    inside, outside = (5, 5, 10, 10), (30, 30, 60, 60)
    detections = [(1, inside), (0, inside), (1, outside)]
    truth, found = one_image([], detections, ignored=crowd)
    verdicts, _, _ = judge_image(truth, found, 0, slice(0, 3))
    assert verdicts.tolist() == [NOT_JUDGED, NO_OBJECT, NO_OBJECT]


def test_annotations_of_lvis_say_what_was_looked_for(tmp_path):
    image = {"coco_url": "http://x/val/1.jpg", "neg_category_ids": [30], "id": 4}
    annotation = {"image_id": 4, "bbox": [0, 0, 9, 9]}
    content = {
        "images": [image | {"not_exhaustive_category_ids": [20]}],
        "annotations": [annotation | {"category_id": c} for c in (10, 20)],
    }
    content["annotations"].append(annotation | {"category_id": 10, "ignore": 1})
    (tmp_path / "a.json").write_text(json.dumps(content))
    run = SimpleNamespace(
        results={"format": "lvis", "json_file": str(tmp_path / "a.json"), "image_root": "/x"},
        results_file=tmp_path / "results.json",
        classes=[{"id": i} for i in (10, 20, 30, 40)],
    )
    truth = load_ground_truth(run)
    assert [known.tolist() for known in truth.judged] == [[0, 2]] and not truth.judges_all
    assert truth.class_index.tolist() == [0, 1] and truth.paths == [Path("/x/val/1.jpg")]
    assert truth.ignored[0][0].tolist() == [0] and truth.ignored[0][1].tolist() == [[0, 0, 9, 9]]
    content["images"] = [image | {"neg_category_ids": [30, 40], "not_exhaustive_category_ids": []}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert load_ground_truth(run).judged is None  # everything was looked for


def test_pictures_are_upright_and_mistakes_in_their_size_are_not_read(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    picture = open_image(tmp_path / "turned.jpg")
    assert picture.size == (20, 30) and picture.mode == "RGB"
    assert is_readable(tmp_path / "turned.jpg") and not is_readable(tmp_path / "none.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert not is_readable(tmp_path / "turned.jpg")


@pytest.mark.parametrize("seed", range(3))
def test_confusion_against_a_loop(seed):
    truth, found = random_data(seed)
    threshold, num_classes = 0.3, 4
    expected = np.zeros((num_classes, num_classes + 1), int)
    num_found = 0
    for image in range(len(truth.image_id)):
        objects = range(truth.start[image], truth.start[image + 1])
        detections = range(found.start[image], found.start[image + 1])
        detections = [n for n in detections if found.score[n] >= threshold]
        finder = {}  # object -> the detection that finds it
        for n in detections:
            own = [m for m in objects if truth.class_index[m] == found.class_index[n]]
            free = [m for m in own if m not in finder]
            best = max(free, key=lambda m: iou_of(truth.box[m], found.box[n]), default=None)
            if best is not None and iou_of(truth.box[best], found.box[n]) >= 0.5:
                finder[best] = n
        num_found += len(finder)
        for m in objects:
            column = num_classes
            for n in reversed(detections):  # the best one is the last to say
                if iou_of(truth.box[m], found.box[n]) < 0.5:
                    continue
                if n not in finder.values() or finder.get(m) == n:
                    column = found.class_index[n]
            expected[truth.class_index[m], column] += 1
    outcome = compare(truth, found, threshold)
    np.testing.assert_array_equal(confusion(truth, outcome, num_classes), expected)
    assert expected[:, :-1].sum() > 15 and expected[:, -1].sum() > 3
    assert outcome.found.sum() == num_found > 5
    shown = sum(found.best(i, threshold).stop - found.start[i] for i in range(len(found.start) - 1))
    assert outcome.false.sum() == shown - num_found


def test_most_confused():
    matrix = np.zeros((6, 7), int)
    matrix[4, 1], matrix[1, 5], matrix[2, 2], matrix[0, 6] = 9, 4, 99, 99
    assert most_confused([matrix], 12) == [1, 4, 5]
    assert most_confused([matrix, 2 * matrix], 2) == [1, 4]


@pytest.mark.parametrize("sign", [1, -1])
def test_margins_against_a_loop(sign):
    u = np.array([0.3, np.nan, -0.2, 0.1, 0.5])
    history = InformationHistory(np.array([1]), u[None], u, sign)
    members = [4, 1, 0, 2]
    matrix = margin_matrix(history, members)
    for a, i in enumerate(members):
        for b, j in enumerate(members):
            known = np.isfinite(u[i]) and np.isfinite(u[j])
            expected = sign * max(0, u[i] - u[j]) * 180 / np.pi if known else 0
            assert matrix[a, b] == pytest.approx(expected)
    assert (matrix != 0).sum() == 3


def outcome_of(truth, found, false=0):
    found = np.array(found, bool)
    return Outcome(
        found, np.where(found, truth.class_index, MISSED), np.full(len(truth.paths), false)
    )


@pytest.fixture
def scene(tmp_path):
    """Images of one rare, one frequent, one of both, and one with too many objects."""
    from PIL import Image

    counts = [[0], [1], [0, 1], [1] * 13, [1]]
    paths = [tmp_path / f"{i}.png" for i in range(len(counts))]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    start = np.concatenate([[0], np.cumsum([len(c) for c in counts])])
    classes = np.array([k for image in counts for k in image])
    truth = GroundTruth(np.arange(5), paths, start, classes, np.tile([0.0, 0, 9, 9], (18, 1)))
    groups = [{"key": "r"}, {"key": "f"}]
    run = SimpleNamespace(groups=groups, classes=[{"group": "r"}, {"group": "f"}])
    return run, truth


def test_the_images_of_one_run_are_those_with_most_mistakes(scene):
    run, truth = scene
    nothing = outcome_of(truth, [False] * 18)
    # Rare and frequent at once, then most of the frequent group, then what is worth most
    assert choose_images(run, truth, [nothing], 2) == ([2, 1], False)
    assert choose_images(run, truth, [nothing], 4) == ([2, 1, 0, 4], False)
    assert 3 in choose_images(run, truth, [nothing], 5)[0]  # a full one, as there is no other
    found_rare = outcome_of(truth, [True, False, True] + [False] * 15)
    assert choose_images(run, truth, [found_rare], 2)[0] == [1, 2]  # a find is no mistake


def test_the_images_of_several_runs_are_those_where_they_differ(scene):
    run, truth = scene
    nothing = [False] * 18
    one = nothing.copy()
    one[17] = True  # the last image's object
    runs = [outcome_of(truth, nothing), outcome_of(truth, one)]
    assert choose_images(run, truth, runs, 1)[0] == [4]
    one[0] = True
    assert choose_images(run, truth, [runs[0], outcome_of(truth, one)], 2)[0] == [0, 4]


def test_images_that_cannot_be_read_are_not_chosen(scene):
    run, truth = scene
    nothing = outcome_of(truth, [False] * 18)
    Path(truth.paths[2]).write_bytes(b"no image")
    assert choose_images(run, truth, [nothing], 2) == ([0, 1], False)
    for path in truth.paths:
        path.unlink()
    assert choose_images(run, truth, [nothing], 2) == ([], True)


def test_spread_labels():
    rng = np.random.default_rng(0)
    wanted = rng.uniform(0, 100, 20)
    moved = spread(wanted, 4.0, 0.0, 100.0)
    assert (np.diff(np.sort(moved)) >= 4 - 1e-9).all() and moved.min() >= 0 and moved.max() <= 100
    np.testing.assert_array_equal(np.argsort(moved), np.argsort(wanted))
    np.testing.assert_allclose(spread(np.array([10.0, 50.0]), 4.0, 0.0, 100.0), [10, 50])
    np.testing.assert_allclose(spread(np.array([50.0, 50.0]), 4.0, 0.0, 100.0), [48, 52])
