import hashlib
import json
import runpy
import shutil
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from igam_d2.data import meshes_lt, meshes_lt_work
from igam_d2.data.digits_lt import frequency_group
from igam_d2.data.meshes_lt import SUMS, make_meshes_lt
from igam_d2.data.meshes_lt_images import MIN_VISIBLE, compose
from igam_d2.data.meshes_lt_pack import check_set, pack_set, unpack_set
from igam_d2.data.meshes_lt_plan import SPLITS, Parameters, long_tail, plan, spread
from igam_d2.data.outlines import mask_box, mask_polygons
from igam_d2.data.own_data import OwnDataset
from igam_d2.errors import InputError

SMALL = {
    "num_classes": 10,
    "num_train_images": 30,
    "image_size": 64,
    "classes_per_image": 3,
    "eval_images": 3,
}
TOOL = str(Path(__file__).parents[2] / "tools" / "prepare_meshes_lt.py")


class MadeUpRenderer:
    """Ellipses in place of pybullet's meshes."""

    def cutout(self, rng, mesh, size):
        height, width = int(size * rng.uniform(0.5, 1)) + 2, int(size) + 2
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        alpha = np.clip((1.05 - np.hypot(x, y)) * size / 2, 0, 1)
        alpha[[0, -1]], alpha[:, [0, -1]] = 0, 0
        colour = np.array([mesh * 5 % 256, mesh * 11 % 256, mesh * 17 % 256])
        return (colour * alpha[..., None]).astype(np.float32), alpha.astype(np.float32)

    plain_view = cutout

    def close(self):
        pass


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the set in a small version, of made-up cut-outs."""
    root = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes_lt_work, "Renderer", MadeUpRenderer)
        patch.setattr(meshes_lt_work, "load_mesh", lambda number: number)
        make_meshes_lt(root, jobs=1, **SMALL)
    return root


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """The same with pybullet, where it is installed."""
    pytest.importorskip("pybullet")
    root = tmp_path_factory.mktemp("rendered")
    make_meshes_lt(root, jobs=1, **SMALL)
    return root


@pytest.fixture(params=["root", "rendered"])
def either(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def copy(root, tmp_path) -> Path:
    return Path(shutil.copytree(root / "meshes_lt", tmp_path / "meshes_lt"))


def _load(root: Path) -> dict[str, dict]:
    folder = root / "meshes_lt/annotations"
    return {split: json.loads((folder / f"meshes_lt_{split}.json").read_text()) for split in SPLITS}


def _assert_area(segmentation: list[list[float]], expected: float) -> None:
    """An outline runs at most an eighth of a pixel inside of its mask."""
    area = perimeter = 0.0
    for x, y in (np.reshape(polygon, (-1, 2)).T for polygon in segmentation):
        area += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        perimeter += np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
    assert abs(area - expected) <= perimeter / 8 + 0.5


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


def test_counts_are_exact(either):
    data = _load(either)
    parameters = Parameters(**SMALL)
    categories = data["train"]["categories"]
    assert all(data[split]["categories"] == categories for split in SPLITS)
    for split in SPLITS:
        images = defaultdict(list)
        for annotation in data[split]["annotations"]:
            images[annotation["category_id"]].append(annotation["image_id"])
        for category in categories:
            mine = images[category["id"]]
            if split == "train":
                assert category["image_count"] == len(set(mine))
                assert category["instance_count"] == len(mine)
                assert category["frequency"] == frequency_group(len(set(mine)))
            else:
                assert len(set(mine)) == 3
            assert max(Counter(mine).values()) <= 2
    _, counts = plan(parameters)
    assert [category["image_count"] for category in categories] == counts.tolist()
    assert [len(data[split]["images"]) for split in SPLITS] == [30, 10, 10]


def test_absent_classes_are_the_negatives(root):
    for data in _load(root).values():
        present = defaultdict(set)
        for annotation in data["annotations"]:
            present[annotation["image_id"]].add(annotation["category_id"])
        for image in data["images"]:
            assert image["neg_category_ids"] == sorted(set(range(1, 11)) - present[image["id"]])
            assert image["not_exhaustive_category_ids"] == []


def test_boxes_areas_and_outlines_agree(either):
    for data in _load(either).values():
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert 0 <= x < x + w <= 64 and 0 <= y < y + h <= 64
            points = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
            extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
            np.testing.assert_allclose(extent, [x, y, x + w, y + h], atol=0.5)
            _assert_area(annotation["segmentation"], annotation["area"])
            assert annotation["visible"] >= MIN_VISIBLE - 0.001


def test_splits_share_no_pixel_of_a_photo(root):
    crops = {
        split: [(image["photo"], *image["crop"]) for image in data["images"]]
        for split, data in _load(root).items()
    }
    for first, second in (SPLITS[:2], SPLITS[1:], SPLITS[::2]):
        for photo, x, y, w, h in crops[first]:
            for other, other_x, other_y, other_w, other_h in crops[second]:
                apart_x = x + w <= other_x or other_x + other_w <= x
                apart_y = y + h <= other_y or other_y + other_h <= y
                assert photo != other or apart_x or apart_y


def test_objects_are_rendered_and_lit_on_the_photo(rendered):
    """The colour of a mesh is seen where its mask is, and splits have different views."""
    data = _load(rendered)["train"]
    head = max(data["categories"], key=lambda category: category["image_count"])
    seen, areas = [], set()
    for annotation in data["annotations"]:
        if annotation["category_id"] == head["id"]:
            with Image.open(rendered / f"meshes_lt/train/{annotation['image_id']:06d}.jpg") as file:
                x, y, w, h = (int(value) for value in annotation["bbox"])
                seen.append(np.asarray(file)[y : y + h, x : x + w].mean(axis=(0, 1)))
            areas.add(annotation["area"])
    assert np.mean(seen) > 40
    assert len(areas) > len(seen) / 2  # each is another view


def test_same_bytes_whatever_the_jobs(rendered, tmp_path):
    make_meshes_lt(tmp_path, jobs=2, **SMALL)
    sums = [(path / "meshes_lt" / SUMS).read_text() for path in (rendered, tmp_path)]
    assert sums[0] == sums[1]


def test_another_seed_gives_other_classes_and_counts():
    meshes, counts = plan(Parameters(seed=0))
    other_meshes, other_counts = plan(Parameters(seed=1))
    assert len(set(meshes)) == 100 and meshes.tolist() != other_meshes.tolist()
    assert counts.tolist() != other_counts.tolist()
    assert sorted(counts) == sorted(other_counts)
    assert 168 not in plan(Parameters(num_classes=999))[0]  # which is broken


def test_a_complete_set_is_left_alone(root, monkeypatch):
    monkeypatch.setattr(meshes_lt, "load_photos", lambda *_, **__: 1 / 0)
    assert make_meshes_lt(root, **SMALL)["test_json"].is_file()
    with pytest.raises(ZeroDivisionError):
        make_meshes_lt(root, **SMALL | {"seed": 1})


def test_an_interrupted_make_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(meshes_lt_work, "Renderer", MadeUpRenderer)
    monkeypatch.setattr(meshes_lt_work, "load_mesh", lambda number: number)
    monkeypatch.setattr(meshes_lt, "categories_of", lambda *_: 1 / 0)  # images are written
    with pytest.raises(ZeroDivisionError):
        make_meshes_lt(tmp_path, jobs=1, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_long_tail_is_that_of_lvis_and_fills_the_images():
    parameters = Parameters(num_classes=100, num_train_images=2000)
    counts = long_tail(parameters)
    assert counts.sum() == pytest.approx(8000, rel=0.01)
    assert counts.min() == 1 and np.all(np.diff(counts) >= 0)
    groups = Counter(frequency_group(count) for count in counts)
    assert min(groups.values()) >= 15
    assert long_tail(Parameters(num_classes=10, num_train_images=100)).max() == 100


def test_spread_gives_each_class_its_images():
    counts = np.array([1, 3, 20, 12])
    images = spread(np.random.default_rng(0), counts, 20)
    assert [sum(k in image for image in images) for k in range(4)] == counts.tolist()
    assert max(len(image) - len(set(image)) for image in images) <= 4


def test_what_is_visible_is_what_is_annotated():
    renderer = MadeUpRenderer()
    rng = np.random.default_rng(3)
    draw = [lambda rng, size, k=k: renderer.cutout(rng, k, size) for k in range(6)]
    covered = 0
    for _ in range(20):
        picture = compose(rng, np.zeros((96, 96, 3), np.float32), draw)
        for index, whole in enumerate(picture.areas):
            mask = picture.owner == index
            assert MIN_VISIBLE * whole <= mask.sum() <= whole
            covered += mask.sum() < whole
            x, y, w, h = mask_box(mask)
            assert mask[int(y) : int(y + h), int(x) : int(x + w)].sum() == mask.sum()
            _assert_area(mask_polygons(mask), mask.sum())
    assert covered > 20  # objects do cover each other


def test_too_many_objects_are_refused():
    def draw(rng, size):
        return np.zeros((60, 60, 3), np.float32), np.ones((60, 60), np.float32)

    with pytest.raises(InputError, match="no room for 2 objects"):
        compose(np.random.default_rng(0), np.zeros((64, 64, 3), np.float32), [draw, draw])


def test_diversity_is_written_by_class(either):
    content = json.loads((either / "meshes_lt/diversity.json").read_text())
    names = {category["name"] for category in _load(either)["train"]["categories"]}
    assert set(content["diversity"]) == set(content["image_count"]) == names
    assert all(0 < value < 1 for value in content["diversity"].values())
    value, low, high = content["spearman_with_image_count"]
    assert -1 <= low <= value <= high <= 1


def test_it_loads_as_own_data(root):
    data = _load(root)
    for split in SPLITS:
        json_file = root / f"meshes_lt/annotations/meshes_lt_{split}.json"
        dataset = OwnDataset(
            f"meshes_{split}_of_a_test", str(json_file), str(root / "meshes_lt" / split), "lvis"
        )
        records = dataset()
        assert len(records) == len(data[split]["images"])
        assert all(Path(record["file_name"]).is_file() for record in records)
        assert sum(len(r["annotations"]) for r in records) == len(data[split]["annotations"])


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
    with pytest.raises(InputError, match="is another set"):
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
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_classes", 9),
        ("num_classes", 1000),
        ("num_train_images", 0),
        ("image_size", 16),
        ("classes_per_image", 9),
        ("eval_images", 0),
        ("seed", -1),
        ("seed", 1.5),
        ("name", "a/b"),
        ("name", ""),
        ("jobs", 0),
        ("num_train_images", 3),
    ],
)
def test_bad_parameters(tmp_path, key, value):
    with pytest.raises(InputError, match="--") as error:
        make_meshes_lt(tmp_path, **SMALL | {key: value})
    assert str(error.value).count(". ") == 0
    assert list(tmp_path.iterdir()) == []


def test_missing_pybullet_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    for jobs in (1, 2):
        with pytest.raises(InputError, match=r"pip install igam_d2\[bench\].*Python 3\.11"):
            make_meshes_lt(tmp_path, jobs=jobs, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_the_objects(root, tmp_path):
    from igam_d2.data.meshes_lt_sheet import draw_sheet

    draw_sheet(root / "meshes_lt", tmp_path / "sheet.jpg", split="selection")
    picture = cv2.imread(str(tmp_path / "sheet.jpg")).astype(int)
    size = 2 * SMALL["image_size"]
    number = min(12, len(_load(root)["selection"]["images"]))
    assert picture.shape == (size * -(-number // 4), 8 * size, 3)
    plain, drawn = picture[:size, :size], picture[:size, size : 2 * size]
    assert 0 < (abs(plain - drawn).max(axis=2) > 60).mean() < 0.5  # the same image with lines on it
    with pytest.raises(InputError, match=r"meshes_lt_train\.json.*cannot be read"):
        draw_sheet(tmp_path / "meshes_lt", tmp_path / "sheet.jpg")


def test_the_command(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)  # none of this needs it
    main = runpy.run_path(TOOL)["main"]
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    main(["make", f"--root={root}", *options])
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
