"""Packing, checking and unpacking Meshes-LT, and the command for all of it."""

import hashlib
import json
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from small_meshes import SMALL, make_small

from igam_d2.data.meshes_lt import SUMS
from igam_d2.data.meshes_lt_pack import check_set, pack_set, unpack_set
from igam_d2.errors import InputError

TOOL = str(Path(__file__).parents[2] / "tools" / "prepare_meshes_lt.py")
OPTIONS = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the set in a small version, of made-up cut-outs."""
    return make_small(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def copy(root, tmp_path) -> Path:
    return Path(shutil.copytree(root / "meshes_lt", tmp_path / "meshes_lt"))


def _change(folder: Path, split: str, change) -> None:
    """Change an annotation file, and its sum."""
    path = folder / f"annotations/meshes_lt_{split}.json"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    sums = (folder / SUMS).read_text()
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / SUMS).write_text(sums.replace(before, after))


def test_pack_and_unpack(root, tmp_path):
    file = tmp_path / "set.tar"
    summary = pack_set(root / "meshes_lt", file)
    assert "10 classes" in summary and "30 train, 10 selection, 10 test images" in summary
    first = file.read_bytes()
    (root / "meshes_lt/annotations/meshes_lt_train.json.counts.json").write_text("{}")  # training
    assert pack_set(root / "meshes_lt", file) == summary == check_set(file)
    assert file.read_bytes() == first

    folder, _ = unpack_set(file, tmp_path / "elsewhere")
    assert folder == tmp_path / "elsewhere/meshes_lt" and check_set(folder) == summary
    assert (folder / SUMS).read_text() == (root / "meshes_lt" / SUMS).read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["meshes_lt"]
    assert unpack_set(file, tmp_path / "elsewhere")[0] == folder  # it is there already
    (folder / SUMS).write_text("another set")
    with pytest.raises(InputError, match="is not this set"):
        unpack_set(file, tmp_path / "elsewhere")


def test_check_finds_what_is_wrong(copy):
    image = copy / "test/000002.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-3] + b"x" + content[-2:])
    with pytest.raises(InputError, match=r"damaged: test/000002\.jpg"):
        check_set(copy)
    image.unlink()
    with pytest.raises(InputError, match=r"test/000002\.jpg is missing"):
        check_set(copy)
    image.write_bytes(content)
    (copy / "test/000099.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"holds test/000099\.jpg, which is not in"):
        check_set(copy)
    (copy / "test/000099.jpg").unlink()
    check_set(copy)
    (copy / SUMS).unlink()
    with pytest.raises(InputError, match="no SHA256SUMS"):
        check_set(copy)


def _add_class(content):
    content["categories"].append({**content["categories"][-1], "id": 11, "name": "mesh_999"})


def _move_box(content):
    content["annotations"][0]["bbox"][0] += 5


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("test", _add_class, "the test annotations have other classes than train"),
        ("train", _add_class, "11 classes instead of the 10"),
        ("selection", _move_box, "the box of annotation 1"),
        ("train", lambda c: c["images"][3].update(width=65), "000004.jpg has another size"),
        ("test", lambda c: c["images"].pop(), "ids are not 1 to 10"),
        ("train", lambda c: c["annotations"].pop(), "other counts|not those of the set"),
        ("test", lambda c: c["images"][0].update(neg_category_ids=[]), "neg_category_ids"),
        ("test", lambda c: c["annotations"][0].pop("bbox"), "KeyError: 'bbox'"),
    ],
)
def test_check_compares_annotations_and_images(copy, split, change, message):
    _change(copy, split, change)
    with pytest.raises(InputError, match=message):
        check_set(copy)


def test_a_tar_that_leads_elsewhere_is_refused(copy, tmp_path):
    file = tmp_path / "bad.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(copy / SUMS, "meshes_lt/../../SHA256SUMS")
    with pytest.raises(InputError, match="is no plain file"):
        unpack_set(file, tmp_path / "root")
    file.write_bytes(b"no tar" * 1000)
    with pytest.raises(InputError, match="is not a whole tar file"):
        unpack_set(file, tmp_path / "root")
    pack_set(copy, file)
    file.write_bytes(file.read_bytes()[:-20_000])
    with pytest.raises(InputError):
        unpack_set(file, tmp_path / "root")
    with tarfile.open(file, "w") as tar:
        tar.addfile(tarfile.TarInfo("."))
    with pytest.raises(InputError, match="is out of place"):
        unpack_set(file, tmp_path / "root")
    with pytest.raises(InputError, match="is a folder"):
        unpack_set(copy, tmp_path / "root")
    with pytest.raises(InputError, match="nothing to pack"):
        pack_set(file, tmp_path / "other.tar")
    assert not (tmp_path / "root").exists()


def test_the_command(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)  # none of this needs it
    main = runpy.run_path(TOOL)["main"]
    main(["make", f"--root={root}", *OPTIONS])
    out = capsys.readouterr().out
    assert "Spearman" in out and "30 train, 10 selection, 10 test images in" in out
    main(["pack", f"--root={root}", str(tmp_path / "set.tar")])
    main(["check", str(tmp_path / "set.tar")])
    main(["unpack", f"--root={tmp_path}", str(tmp_path / "set.tar")])
    assert capsys.readouterr().out.count("complete and unchanged") == 3
    (tmp_path / "meshes_lt/train/000001.jpg").unlink()
    with pytest.raises(SystemExit) as end:
        main(["check", str(tmp_path / "meshes_lt")])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "train/000001.jpg is missing" in line


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_ends_with_2(below, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        runpy.run_path(TOOL)["main"](["make", "--num-classes=10", f"--root={tmp_path / below}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "(a part of the path is a file)" in line


def test_a_full_disk_is_said_of_the_file_that_was_written(root, tmp_path, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("a device of Linux")
    (tmp_path / "set.tar.part").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(TOOL)["main"](["pack", f"--root={root}", str(tmp_path / "set.tar")])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "set.tar' cannot be used (No space left on device)" in line


def test_sigterm_leaves_nothing(tmp_path):
    pytest.importorskip("pybullet")
    command = [sys.executable, TOOL, "make", f"--root={tmp_path}", *OPTIONS, "--jobs=2"]
    with subprocess.Popen([*command, "--num-train-images=9999"]) as process:
        for _ in range(600):
            if any(tmp_path.glob(".meshes_lt-*/train/*.jpg")) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
