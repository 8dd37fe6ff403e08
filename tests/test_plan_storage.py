"""The storage planner: the paper's worked numbers, the modules' real memory, bad input."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from igam_d2.data.instances import count_instances
from igam_d2.errors import InputError
from igam_d2.functional import optimal_queue_length, storage_ratio
from igam_d2.moments import ClassMoments, EmbeddingQueue

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("plan_storage", ROOT / "tools/plan_storage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plan(command, tmp_path, capsys):
    """Runs the command; returns what it printed."""

    def run(*args: object) -> str:
        command.main([*map(str, args), "--output", str(tmp_path / "new" / "storage.png")])
        output = capsys.readouterr().out
        assert output.endswith(f"{tmp_path}/new/storage.png\n")
        return output

    return run


def numbers(output: str, scheme: str) -> list[list[str]]:
    """Queue length, MiB and ratio of each row of a scheme."""
    return [line.split()[-3:] for line in output.splitlines() if line.startswith(scheme)]


@pytest.mark.parametrize(
    "n, k, length, original, best, at_default",
    [
        (55800, 20, "11,517", "27.25", ["11,517", "11.87", "0.436"], ["50,000", "26.91", "0.988"]),
        (
            605638,
            80,
            "68,182",
            "295.72",
            ["68,182", "78.29", "0.265"],
            ["50,000", "89.41", "0.302"],
        ),
    ],
)
def test_worked_examples_of_the_paper(plan, tmp_path, n, k, length, original, best, at_default):
    output = plan("--num-instances", n, "--num-classes", k)
    assert f"Listing 2: {length}\n" in output
    assert numbers(output, "paper, original") == [["-", original, "1.000"]]
    assert sorted(numbers(output, "paper, new")) == sorted([best, at_default])
    with Image.open(tmp_path / "new" / "storage.png") as image:
        assert image.format == "PNG" and image.size == (1350, 840)


def test_lvis_where_the_paper_needs_more_and_a_large_dimension_where_all_do(plan):
    lvis = ("--num-instances", 1_270_141, "--num-classes", 1203)
    output = plan(*lvis)
    assert ["50,000", "1,979.29", "3.191"] in numbers(output, "paper, new")
    assert "moments alone: 75.78 MiB" in output and "needs more than" not in output
    output = plan(*lvis, "--embedding-dim", 1024)
    assert ["50,000", "5,012.40", "1.010"] in numbers(output, "this project")
    assert "needs more than all embeddings take; one of at most" in output
    assert "needs more" not in plan(*lvis, "--embedding-dim", 1024, "--queue-length", 36_000)
    assert "so does any other" in plan("--num-instances", 300, "--num-classes", 40)


@pytest.mark.parametrize("length, k, dim", [(300, 7, 24), (1, 1, 1)])
def test_memory_is_that_of_the_modules(command, length, k, dim):
    modules = ClassMoments(k, dim), EmbeddingQueue(length, dim)
    real = [sum(b.numel() * b.element_size() for b in m.buffers()) for m in modules]
    assert [command.bytes_of_moments(k, dim), command.bytes_of_queue(length, dim)] == real
    assert real[1] == length * command.bytes_of_queue(1, dim)
    # float32 mean, scatter and embeddings; int64 count and classes; one int64 for all classes
    assert real == [4 * k * (dim * dim + dim) + 8 * k + 8, length * (4 * dim + 8)]


@pytest.mark.parametrize("dim, k", [(128, 10), (1024, 1203), (8, 1)])
@pytest.mark.parametrize("n", [1, 67, 500, 995, 1000, 33958, 58907, 605638])
def test_the_optimal_length_is_as_good_as_listing_2s(n, dim, k):
    """Also where rounding the length, or its division, would cost a filling; and below 1,000."""
    lengths = np.linspace(1000, n, 100)
    least = ((lengths + k * (np.floor(n / lengths) + 1) * dim) / n).min()
    best = optimal_queue_length(n, dim, k)
    assert storage_ratio(best, n, dim, k) <= least + 1 / n
    assert min(1000, n) <= best <= max(1000, n) + 1


def test_sizes_of_zero_or_below(plan, capsys):
    sizes = {"num_instances": 100, "num_classes": 3, "embedding_dim": 8, "queue_length": 10}
    for name in sizes:
        for bad in (0, -3):
            arguments = sizes | {name: bad}
            message = f"{name} must be positive, not {bad}."
            with pytest.raises(ValueError, match=message):
                storage_ratio(**arguments)
            length = arguments.pop("queue_length")
            if name != "queue_length":
                with pytest.raises(ValueError, match=message):
                    optimal_queue_length(**arguments)
            options = [f"--{key.replace('_', '-')}={value}" for key, value in arguments.items()]
            with pytest.raises(SystemExit) as end:
                plan(*options, f"--queue-length={length}")
            assert end.value.code == 2
            assert capsys.readouterr() == ("", f"error: {message}\n")


@pytest.mark.parametrize(
    "options",
    ["", "--num-instances 9", "--dataset a --num-classes 3", "--dataset a --num-instances 3"],
)
def test_either_a_data_set_or_both_numbers(plan, options, capsys):
    with pytest.raises(SystemExit) as end:
        plan(*options.split())
    assert end.value.code == 2 and "either --dataset, or both" in capsys.readouterr().err


@pytest.fixture
def annotations(tmp_path):
    """A COCO file of 3 classes, 11 instances and 2 crowd regions."""
    entries = [
        {"id": i, "image_id": 1, "category_id": 1 + i % 2, "bbox": [1, 1, 5, 5], "iscrowd": i > 10}
        for i in range(13)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 9, "width": 9}],
        "annotations": entries,
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 5)],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    return path


def test_a_file_and_registered_data_sets(plan, annotations):
    assert plan("--dataset", annotations).startswith("N = 11 instances, K = 3 classes, D = 128\n")
    records = [{"annotations": [{"iscrowd": 1}, {"iscrowd": 0}, {}]}, {}]
    DatasetCatalog.register("storage_file", lambda: pytest.fail("its file says it all"))
    DatasetCatalog.register("storage_loader", lambda: records)
    MetadataCatalog.get("storage_file").set(json_file=str(annotations))
    MetadataCatalog.get("storage_loader").set(thing_classes=list("abcd"))
    try:
        assert count_instances("storage_file") == (11, 3)
        assert count_instances("storage_loader") == (2, 4)
    finally:
        for name in ("storage_file", "storage_loader"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_digits_lt_by_its_name(digits_root, command):
    """In a process of its own: the data sets' folder is read when the package is imported."""
    code = "from igam_d2.data.instances import count_instances as c; print(c('digits_lt_train'))"
    environment = os.environ | {"DETECTRON2_DATASETS": str(digits_root)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    file = digits_root / "digits_lt" / "annotations" / "digits_lt_train.json"
    num_instances = len(json.loads(file.read_text())["annotations"])
    assert num_instances >= 59 and done.stdout == f"({num_instances}, 10)\n"


def test_data_sets_that_cannot_be_counted(plan, annotations, capsys):
    for dataset, part in (
        ("coco_2017_trian", "did you mean 'coco_2017_train'?"),
        ("/nothing.json", "error: Annotation file '/nothing.json' is missing"),
    ):
        with pytest.raises(SystemExit) as end:
            plan("--dataset", dataset)
        assert end.value.code == 2 and part in capsys.readouterr().err
    with pytest.raises(InputError, match=r"voc_2007_trainval.*could not be read"):
        count_instances("voc_2007_trainval")
    content = json.loads(annotations.read_text())
    annotations.write_text(json.dumps(content | {"annotations": content["annotations"][11:]}))
    with pytest.raises(InputError, match="0 annotated instances of 3 classes"):
        count_instances(str(annotations))


def test_a_figure_that_cannot_be_written(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        command.main(
            ["--num-instances=9", "--num-classes=3", f"--output={tmp_path / 'file' / 'x.png'}"]
        )
    assert end.value.code == 2 and "x.png' cannot be written (" in capsys.readouterr().err


def test_tools_begin_without_the_warnings_of_detectron2(annotations, tmp_path):
    """As without make, whose PYTHONWARNINGS leave them out."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    options = ["--dataset", annotations, "--output", tmp_path / "storage.png"]
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "plan_storage.py", *options],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""


def test_numbers_need_no_detectron2(tmp_path):
    code = (
        "import sys, runpy, warnings; warnings.simplefilter('ignore');"
        "sys.modules['detectron2'] = None;"
        "sys.argv = ['', '--num-instances=55800', '--num-classes=20', '--output=storage.png'];"
        f"runpy.run_path({str(ROOT / 'tools' / 'plan_storage.py')!r}, run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "storage.png").is_file()
