"""The command that says which files of the data sets are there, on trees of a few files."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from igam_d2.data import dataset_tree
from igam_d2.data.dataset_tree import CONFIGURED, DATASET_TREES

TOOL = Path(__file__).parents[2] / "tools" / "check_datasets.py"


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("check_datasets", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(monkeypatch):
    """Trees of a few files each: five images of a split, and seven where others are beside them."""
    for name, places in DATASET_TREES.items():
        few = tuple(
            replace(p, expected=None if p.expected is None else (7 if p.lists else 5))
            for p in places
        )
        monkeypatch.setitem(dataset_tree.DATASET_TREES, name, few)


def fill(root: Path) -> None:
    """Puts everything there; lists name the same five images."""
    for place in (place for places in DATASET_TREES.values() for place in places):
        path = root / place.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix:
            path.mkdir(exist_ok=True)
            for number in range(place.expected):
                (path / f"{number}{place.suffix}").touch()
        elif place.expected:
            path.write_text("".join(f"{number}\n" for number in range(place.expected)))
        else:
            path.write_text('{"images": []}\n')


def check(command, capsys, *args) -> tuple[str, object]:
    """What it printed, and the status or message that it ended with."""
    try:
        command.main([*map(str, args)])
        status = 0
    except SystemExit as end:
        status = end.code
    return capsys.readouterr().out, status


def row(output: str, path: str) -> list[str]:
    (cells,) = {tuple(line.split()) for line in output.splitlines() if line.startswith(path + " ")}
    return list(cells[1:])


def test_an_empty_tree(command, capsys, tmp_path):
    output, status = check(command, capsys, "--root", tmp_path / "nothing")
    assert "nothing, which does not exist:" in output
    assert f"incomplete: {', '.join(CONFIGURED)};" in status
    for name in CONFIGURED:
        assert f"\n{name}\n" in output
    assert row(output, "coco/train2017") == ["missing", "118,287"]
    assert row(output, "coco/val2017") == ["missing", "5,000"]
    for path, number in (
        ("VOC2007/ImageSets/Main/trainval.txt", "5,011"),
        ("VOC2007/ImageSets/Main/test.txt", "4,952"),
        ("VOC2007/JPEGImages", "9,963"),
        ("VOC2012/ImageSets/Main/trainval.txt", "11,540"),
        ("VOC2012/Annotations", "17,125"),
    ):
        assert row(output, path) == ["missing", number]
    for source in (
        "train2017.zip",
        "twangnh/SimCal",
        "VOCtest_06-Nov-2007",
        "lvis_v1_val.json.zip",
        f"move VOCdevkit/VOC2007 to {tmp_path}/nothing/\n",
        f"prepare_digits_lt.py --root {tmp_path}/nothing\n",
        f"train2017.zip in {tmp_path}/nothing/coco/\n",
    ):
        assert source in output


def test_a_complete_tree(command, capsys, tmp_path, small):
    fill(tmp_path)
    output, status = check(command, capsys, *DATASET_TREES, "--root", tmp_path)
    assert status == 0 and output.endswith("all is there\n")
    assert "missing" not in output and "->" not in output
    assert row(output, "coco/val2017") == ["ok", "5", "5"]


def test_what_is_missing_or_not_whole(command, capsys, tmp_path, small):
    fill(tmp_path)
    (tmp_path / "coco/train2017/3.jpg").unlink()
    (tmp_path / "lvis/lvis_v1_train.json").write_text('{"images": [{"id": 1')
    (tmp_path / "VOC2007/Annotations/2.xml").unlink()
    (tmp_path / "VOC2007/JPEGImages/6.jpg").unlink()  # which no list names
    (tmp_path / "VOC2012/ImageSets/Main/trainval.txt").write_text("1\n2\n")
    output, status = check(command, capsys, "lvis_v1", "voc", "--root", tmp_path)
    assert "incomplete: lvis_v1, voc;" in status
    assert row(output, "coco/train2017") == ["1", "missing", "4", "5"]
    assert row(output, "lvis/lvis_v1_train.json") == ["cut", "off"]
    assert row(output, "VOC2007/Annotations") == ["1", "missing:", "2.xml", "6", "7"]
    assert row(output, "VOC2007/JPEGImages") == ["ok", "6", "7"]
    assert row(output, "VOC2012/ImageSets/Main/trainval.txt") == ["another", "list", "2", "5"]
    assert output.count("->") == 4  # train2017, LVIS's training file, and each year


def test_bad_input_ends_with_2(command, capsys, tmp_path):
    (tmp_path / "file").touch()
    for args, part in (
        (("LVIS", "--root", tmp_path), "no data set 'LVIS' (did you mean 'lvis_v1'?)"),
        (("voc", "--root", tmp_path / "file"), "file', a file: give the folder"),
    ):
        with pytest.raises(SystemExit) as end:
            command.main([*map(str, args)])
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and line.startswith("error: ") and part in line
