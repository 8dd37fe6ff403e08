"""COCO-LT: what a file holds is said exactly, and a set of the same counts can be drawn."""

import copy
import importlib.util
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from igam_d2.data import load_training_set
from igam_d2.data.checks import check_registration
from igam_d2.data.coco_lt import COCO_CLASSES, COCO_LT, ORIGINAL, REBUILT, Counts, Summary
from igam_d2.data.coco_lt import differences as all_differences
from igam_d2.data.coco_lt_file import rebuild_file
from igam_d2.data.coco_lt_rebuild import class_targets, rebuild
from igam_d2.data.register import register_coco_lt
from igam_d2.errors import InputError, TransientError
from igam_d2.evaluation.coco import BOUNDS

TOOL = Path(__file__).parents[2] / "tools" / "prepare_coco_lt.py"
# Annotations of each class of COCO train2017, crowd regions among them
COCO_TRAIN_2017 = (
    262465, 7113, 43867, 8725, 5135, 6069, 4571, 9973, 10759, 12884, 1865, 1983, 1285, 9838,
    10806, 4768, 5508, 6587, 9509, 8147, 5513, 1294, 5303, 5131, 8720, 11431, 12354, 6496, 6192,
    2682, 6646, 2685, 6347, 9076, 3276, 3747, 5543, 6126, 4812, 24342, 7913, 20650, 5479, 7770,
    6165, 14358, 9458, 5851, 4373, 6399, 7308, 7852, 2918, 5821, 7179, 6353, 38491, 5779, 8652,
    4192, 15714, 4157, 5805, 4970, 2262, 5703, 2855, 6434, 1673, 3334, 225, 5610, 2637, 24715,
    6334, 6613, 1481, 4793, 198, 1954,
)  # fmt: skip

AVAILABLE = (60, 15, 120, 40, 8, 35, 20, 33)
CLASSES = dict(list(COCO_CLASSES.items())[: len(AVAILABLE)])
SMALL = Counts(
    images=110, instances=249, smallest=2, largest=120, bounds=(4, 10, 30), groups=(1, 2, 3, 2)
)


@pytest.fixture(scope="module")
def source() -> dict:
    """Annotations of eight classes on 160 images, ten of which have none; some are crowds."""
    rng = np.random.default_rng(0)
    categories = np.repeat(list(CLASSES), AVAILABLE)
    ids, crowds = rng.permutation(1000), rng.random(len(categories)) < 0.1
    annotations = [
        {"id": int(i), "image_id": int(rng.integers(150)), "category_id": int(c), "iscrowd": int(w)}
        | {"bbox": [1, 1, 9, 9], "area": 81, "segmentation": [[1, 1, 9, 1, 9, 9]]}
        for i, c, w in zip(ids, categories, crowds, strict=False)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in range(160)]
    names = [{"id": i, "name": name} for i, name in CLASSES.items()]
    return {"info": {"year": 2017}, "images": images, "annotations": annotations} | {
        "categories": names
    }


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("prepare_coco_lt", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counts_of(content: dict) -> Counts:
    return Summary.of_content(content, SMALL.bounds).counts


def differences(content: dict) -> list[str]:
    return all_differences(Summary.of_content(content, SMALL.bounds), SMALL, CLASSES)


def test_a_rebuilt_set_has_exactly_the_counts(source):
    before = copy.deepcopy(source)
    result = rebuild(source, seed=3, counts=SMALL, source="instances_train2017.json")
    assert source == before
    assert counts_of(result) == SMALL and differences(result) == []
    assert len(result["images"]) == SMALL.images  # and none without an annotation
    for part in ("images", "annotations"):
        theirs = {record["id"]: record for record in source[part]}
        ids = [record["id"] for record in result[part]]
        assert ids == sorted(set(ids))
        assert all(record == theirs[record["id"]] for record in result[part])
    for word in ("not SimCal's", "instances_train2017.json", "seed 3"):
        assert word in result["info"]["description"]
    # Crowd regions are drawn last: a class that has lost annotations keeps groups without them
    plain = Summary.of_content(result, SMALL.bounds).counts_without_crowd
    assert plain.groups[:3] == SMALL.groups[:3]


def test_a_seed_gives_one_file_whatever_the_order(source, tmp_path):
    shuffled = copy.deepcopy(source)
    for part in ("images", "annotations", "categories"):
        random.Random(0).shuffle(shuffled[part])
    contents = []
    for name, content, seed in (("a", source, 1), ("b", shuffled, 1), ("c", source, 2)):
        (tmp_path / "in.json").write_text(json.dumps(content))
        lines = []
        rebuild_file(
            tmp_path / "in.json", tmp_path / name, seed=seed, counts=SMALL, progress=lines.append
        )
        assert any("s left" in line for line in lines)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert json.loads(contents[0]) == rebuild(source, seed=1, counts=SMALL, source="in.json")


def test_the_number_of_images_is_steered(source):
    free = rebuild(source, seed=0, counts=replace(SMALL, images=0))  # as few as can be
    full = rebuild(source, seed=0, counts=replace(SMALL, images=999))
    low, high = counts_of(free).images, counts_of(full).images
    assert low < SMALL.images < high
    for images in range(low, high + 1, 3):
        result = rebuild(source, seed=0, counts=replace(SMALL, images=images))
        assert counts_of(result) == replace(SMALL, images=images)
    most = replace(SMALL, instances=281, images=118)  # as many instances as the groups allow
    assert counts_of(rebuild(source, seed=0, counts=most)) == most
    for result in (free, full):  # what cannot be is said, and all else agrees
        (difference,) = differences(result)
        assert "images with an annotation (not 110)" in difference


def test_numbers_of_classes_for_coco_itself():
    available = np.array(COCO_TRAIN_2017)
    assert available.sum() == 860_001
    targets = class_targets(available)
    assert targets.sum() == COCO_LT.instances and (targets <= available).all()
    assert (targets.min(), targets.max()) == (COCO_LT.smallest, COCO_LT.largest)
    groups = np.bincount(np.digitize(targets, COCO_LT.bounds))
    assert tuple(groups) == COCO_LT.groups == (4, 24, 32, 20) and COCO_LT.classes == 80
    order = np.argsort(available, kind="stable")
    assert (np.diff(targets[order]) >= 0).all()
    assert COCO_LT.bounds == BOUNDS  # of AP1 to AP4


def test_what_differs_is_named(source, tmp_path, command, capsys):
    content = copy.deepcopy(rebuild(source, seed=0, counts=SMALL))
    content["annotations"] = content["annotations"][1:]
    assert "248 instances (not 249)" in differences(content)
    content["categories"][2]["name"] = "kite"
    assert "category 3 'kite' (where COCO has 3 'car')" in differences(content)

    path = tmp_path / "x.json"
    path.write_text(json.dumps(source))
    with pytest.raises(SystemExit) as end:
        command.main(["check", str(path)])
    message = str(end.value.code)
    assert message.startswith(f"error: {path} is not COCO-LT: it has 8 classes (not 80), ")
    for part in ("331 instances (not 666,493)", "120 instances of the largest class (not 262,465)"):
        assert part in message
    assert "0 classes with 8,000 or more instances (not 20)." in message and "\n" not in message
    output = capsys.readouterr().out
    assert "666,493" in output and "more images have no annotation" in output
    with pytest.raises(SystemExit) as end:
        command.main(["check", "--root", str(tmp_path)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{ORIGINAL} is missing: " in line and "SimCal" in line and "rebuild" in line


def test_a_rebuilt_file_under_the_name_of_simcal_is_refused(source, tmp_path, command, capsys):
    content = rebuild(source, seed=0, counts=SMALL)
    summary = Summary.of_content(content, SMALL.bounds)
    assert all_differences(summary, SMALL, CLASSES, name=REBUILT) == []
    (difference,) = all_differences(summary, SMALL, CLASSES, name=ORIGINAL)
    assert "rebuilt" in difference
    (tmp_path / ORIGINAL).write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="the name of SimCal's own file"):  # status 1
        command.main(["check", str(tmp_path / ORIGINAL)])
    assert "note: " not in capsys.readouterr().out


def test_only_a_rebuilt_file_is_replaced(source, tmp_path):
    origin, output = tmp_path / "instances_train2017.json", tmp_path / "new" / "out.json"
    origin.write_text(json.dumps(source))

    def run(target: Path, seed: int = 1, progress=lambda line: None, source=origin) -> None:
        rebuild_file(source, target, seed=seed, counts=SMALL, progress=progress)

    run(output)
    first = output.read_bytes()
    run(output, seed=2)
    assert output.read_bytes() != first
    os.link(origin, tmp_path / "link.json")
    (tmp_path / "copy.json").write_bytes(origin.read_bytes())
    (tmp_path / "cut.json").write_text('{"info": {"rebuilt": "')
    (tmp_path / "inside.json").write_text('{"info": {"of": {"rebuilt": "x"}}, "rebuilt": "x"}')
    for target, part in (
        (origin, "is the source itself"),
        (tmp_path / "new" / ".." / origin.name, "is the source itself"),
        (tmp_path / "link.json", "is the source itself"),
        *((tmp_path / f"{name}.json", "is not replaced") for name in ("copy", "cut", "inside")),
        (tmp_path, "is not replaced"),
        (origin / "out.json", "cannot be written (a part of the path is a file)"),
        (origin / "folder" / "out.json", "cannot be written ("),
    ):
        before = target.read_bytes() if target.is_file() else b""
        with pytest.raises(InputError) as info:  # before the file is read
            run(target, progress=lambda line: pytest.fail(line))
        assert part in str(info.value) and "cannot be drawn from" not in str(info.value)
        assert not before or target.read_bytes() == before
    with pytest.raises(InputError, match="itself"):
        run(output, source=output)
    with pytest.raises(InputError, match=r"^The seed is -1"):
        run(output, seed=-1, progress=lambda line: pytest.fail(line))


def test_a_full_disk_ends_in_one_sentence(source, tmp_path, monkeypatch):
    (tmp_path / "in.json").write_text(json.dumps(source))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rebuild_file.__module__ + ".write_whole", full)
    with pytest.raises(TransientError, match=r"out' could not be written \(No space left"):
        rebuild_file(tmp_path / "in.json", tmp_path / "out", seed=0, counts=SMALL)


def test_sources_that_cannot_be_drawn_from(source, tmp_path, command, capsys):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(source))
    for options, part in (
        ([], "the largest with 120 annotations, where COCO train2017 has 80 and 262,465"),
        (["--seed", "-1"], "seed is -1"),
        (["--output", str(tmp_path / ORIGINAL)], "the name of SimCal's own file"),
    ):
        with pytest.raises(SystemExit) as end:
            command.main(["rebuild", "--source", str(path), *options, "--root", str(tmp_path)])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and part in line
    assert not (tmp_path / "coco_lt" / REBUILT).exists()

    def refused(content: dict, counts: Counts = SMALL) -> str:
        with pytest.raises(InputError) as info:
            rebuild(content, seed=0, counts=counts)
        return str(info.value)

    annotations = source["annotations"]
    twice = source | {"annotations": [*annotations, annotations[0]]}
    assert f"annotations have the id {annotations[0]['id']}" in refused(twice)
    assert "which the file does not list" in refused(source | {"images": source["images"][:9]})
    poor = [a for a in annotations if a["category_id"] != 2] + annotations[60:63]  # 3 bicycles
    poor = source | {"annotations": list({a["id"]: a for a in poor}.values())}
    assert "at least 4 are needed" in refused(poor, replace(SMALL, smallest=4))
    assert "999 instances cannot be reached" in refused(source, replace(SMALL, instances=999))


@pytest.fixture
def registered(tmp_path):
    """The two sets below an empty folder, in the place of those that are registered."""
    names = ("coco_lt_train", "coco_lt_rebuilt_train")

    def register(root):
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_coco_lt(root)

    register(tmp_path)
    yield tmp_path
    register(None)


def test_registration(registered, cfg, caplog):
    register_coco_lt("/elsewhere")  # changes nothing
    val = MetadataCatalog.get("coco_2017_val")
    for name, file, hint in (
        ("coco_lt_train", ORIGINAL, "github.com/twangnh/SimCal"),
        ("coco_lt_rebuilt_train", REBUILT, r"prepare_coco_lt\.py rebuild"),
    ):
        metadata = MetadataCatalog.get(name)
        for key in ("thing_classes", "thing_dataset_id_to_contiguous_id", "evaluator_type"):
            assert metadata.get(key) == val.get(key)
        assert metadata.json_file == str(registered / "coco_lt" / file)
        assert metadata.image_root == str(registered / "coco" / "train2017")
        with pytest.raises(InputError, match=rf"{file}' of '{name}' is missing: .*{hint}"):
            check_registration(name)

    (registered / "coco_lt").mkdir()
    (registered / "coco" / "train2017").mkdir(parents=True)
    images = [{"id": 7, "file_name": "7.jpg", "height": 9, "width": 9}]
    box = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 1, 5, 5], "iscrowd": 0}
    categories = [{"id": i, "name": name} for i, name in COCO_CLASSES.items()]
    content = {"images": images, "annotations": [box], "categories": categories[::-1]}
    (registered / "coco" / "train2017" / "7.jpg").touch()
    path = registered / "coco_lt" / ORIGINAL
    path.write_text(json.dumps(content))
    cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ("coco_lt_train",), 80
    (record,) = load_training_set(cfg)
    load_training_set(cfg)
    (warning,) = [text for text in caplog.messages if "is not the whole COCO-LT" in text]  # once
    assert "1 instances (not 666,493)" in warning
    assert f"python tools/prepare_coco_lt.py check {path}" in warning
    assert record["annotations"][0]["category_id"] == 79
    assert record["file_name"] == str(registered / "coco" / "train2017" / "7.jpg")

    categories[9]["name"] = "traffic_light"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"other classes than coco_2017_val.*\.py check .*says"):
        load_training_set(cfg)
