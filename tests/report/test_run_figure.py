"""The picture of a run, from a folder that the test writes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igam_d2.errors import InputError
from igam_d2.report.image_pairs import (
    CORRECT,
    NO_OBJECT,
    WRONG_CLASS,
    class_colors,
    judge_detections,
    pairwise_iou,
)
from igam_d2.report.run_figure import Run, draw_run, load_run
from igam_d2.report.run_folder import LabeledBox

ROOT = Path(__file__).parents[2]
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300")


def _write_run(
    root: Path,
    num_classes: int = 6,
    size: tuple[int, int] = (96, 64),
    num_images: int = 5,
    predictors: tuple[str, ...] = ("roi_heads.box_predictor",),
    tasks: tuple[str, ...] = ("bbox",),
) -> Path:
    """A run folder under `root`, images and annotations beside it; returns the run folder."""
    rng = np.random.default_rng(0)
    run, results = root / "run", root / "run" / "inference" / "photos_val"
    results.mkdir(parents=True)
    (root / "val").mkdir()
    frequency = [("f", "c", "r")[3 * c // num_classes] for c in range(num_classes)]
    images, annotations, detections = [], [], []
    for image_id in range(1, num_images + 1):
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val" / f"{image_id:03d}.png")
        images.append({"id": image_id, "coco_url": f"http://host/val/{image_id:03d}.png"})
        for k in range(3):
            category = 10 * (1 + (image_id * 3 + k) % num_classes)
            box = [4 + 26 * k, 10, 20, 30]
            ann = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
            annotations.append(ann | {"bbox": box, "area": 600})
            detection = {"image_id": image_id, "category_id": category, "bbox": box}
            detections.append(
                detection | {"score": 0.2 + 0.3 * k, "segmentation": {"counts": "{["}}
            )
    (root / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    (results / "lvis_instances_results.json").write_text(json.dumps(detections))
    classes = [
        {
            "id": 10 * (c + 1),
            "name": f"a_class_{c}_of_$many$",
            "frequency": frequency[c],
            "image_count": 200 // (c + 1),
            "instance_count": 400 // (c + 1),
            "val_instances": 3,
            "AP": {task: None if c == 1 else 90.0 / (c + 1) for task in tasks},
        }
        for c in range(num_classes)
    ]
    metrics = {task: dict.fromkeys(METRICS, 12.5) | {"APr": None} for task in tasks}
    content = {"dataset": "photos_val", "metrics": metrics, "classes": classes}
    content |= {"json_file": str(root / "annotations.json"), "image_root": str(root)}
    (results / "results.json").write_text(json.dumps(content))
    with open(run / "metrics.json", "w") as f:
        for i in range(1, 9):
            row = {"iteration": 20 * i, "total_loss": 3 / i, "fast_rcnn/fg_cls_accuracy": i / 9}
            f.write(json.dumps(row) + "\n")
        f.write('{"iteration": 160, "bbox/AP": NaN}\n{"iteration": 170, "total_lo')  # killed here
    if predictors:
        with open(run / "information.jsonl", "w") as f:
            for iteration in (50, 100):
                for number, name in enumerate(predictors):
                    bits = [iteration + 1000.0 * number + c for c in range(num_classes - 1)] + [
                        None
                    ]
                    line = {"iteration": iteration, "predictor": name, "information": bits}
                    f.write(json.dumps(line | {"count": [5] * num_classes}) + "\n")
    return run


def _assert_good_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width == 1920 and 700 < image.height < 2600
        pixels = np.asarray(image.convert("RGB"))[::3, ::3].astype(int)
    third = len(pixels) // 3
    for part in (pixels[:third], pixels[third:-third], pixels[-third:]):
        assert len(np.unique(part @ [1, 256, 65536])) > 50
        assert 0.01 < (part.min(axis=2) < 250).mean() < 0.95


@pytest.mark.parametrize("size", [(96, 64), (40, 200), (1600, 900)])
def test_the_picture(tmp_path, size):
    run = load_run(_write_run(tmp_path, size=size))
    assert run.dataset == "photos_val" and len(run.samples) == 4 and not run.missing
    _assert_good_picture(draw_run(run, tmp_path / "new" / "run.png"))


def test_many_classes_and_masks(tmp_path):
    run = load_run(_write_run(tmp_path, num_classes=45, num_images=20, tasks=("bbox", "segm")))
    _assert_good_picture(draw_run(run, tmp_path / "run.png"))


def test_only_an_evaluation(tmp_path):
    """Without information amounts, learning curve, images; counts and frequencies unknown."""
    folder = _write_run(tmp_path, predictors=())
    (folder / "metrics.json").unlink()
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    file = folder / "inference" / "photos_val" / "results.json"
    results = json.loads(file.read_text())
    for record in results["classes"]:
        record |= {"frequency": None, "image_count": None, "instance_count": None}
    file.write_text(json.dumps(results))
    run = load_run(folder)
    assert run.information is None and run.curve is None and run.samples == []
    assert "not found" in run.missing
    draw_run(run, tmp_path / "run.png")
    results["classes"] *= 10
    file.write_text(json.dumps(results))
    draw_run(load_run(folder), tmp_path / "run.png")


def test_the_last_predictor_counts(tmp_path):
    names = ("roi_heads.box_predictor.2", "roi_heads.box_predictor.10")
    run = load_run(_write_run(tmp_path, predictors=names))
    expected = [1100, 1101, 1102, 1103, 1104, np.nan]
    np.testing.assert_equal(run.information, expected)


def test_the_learning_curve(tmp_path):
    folder = _write_run(tmp_path)
    with open(folder / "metrics.json", "a") as f:  # resumed, as a cascade
        row = {"iteration": 160, "total_loss": 9.0}
        stages = {f"stage{i}/fast_rcnn/fg_cls_accuracy": i / 10 for i in range(3)}
        f.write("\n" + json.dumps(row | stages) + "\n")
    curve = load_run(folder).curve
    assert curve.iterations.tolist() == list(range(20, 161, 20))
    assert curve.total_loss[-1] == 9 and curve.foreground_accuracy[-1] == 0.2


def test_samples_show_as_many_classes_as_possible(tmp_path):
    folder = _write_run(tmp_path, num_classes=12, num_images=12)
    samples = load_run(folder).samples
    assert {box.class_index for s in samples for box in s.ground_truth} == set(range(12))
    assert {box.class_index for box in samples[0].ground_truth} == {9, 10, 11}  # all rare
    assert samples == load_run(folder).samples
    scores = [box.score for box in samples[0].detections]
    assert scores == pytest.approx([0.8, 0.5, 0.2])
    (tmp_path / "val" / samples[0].path.name).unlink()
    assert samples[0].path not in [s.path for s in load_run(folder).samples]


def test_judge_detections():
    truth = [LabeledBox((0, 0, 10, 10), 0), LabeledBox((50, 50, 10, 10), 1)]
    found = [
        LabeledBox((0, 0, 10, 9), 0, 0.5),  # a better one takes the object
        LabeledBox((0, 1, 10, 9), 0, 0.9),
        LabeledBox((51, 50, 10, 10), 0, 0.4),
        LabeledBox((80, 80, 10, 10), 1, 0.8),
        LabeledBox((55, 50, 10, 10), 1, 0.8),  # an IoU of 1/3
    ]
    assert pairwise_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 2, 2]])) == pytest.approx(1 / 3)
    expected = [NO_OBJECT, CORRECT, WRONG_CLASS, NO_OBJECT, NO_OBJECT]
    assert judge_detections(found, truth) == expected
    assert judge_detections(found, []) == [NO_OBJECT] * 5 and judge_detections([], truth) == []


def test_annotated_classes_have_colours_of_their_own(tmp_path):
    run = load_run(_write_run(tmp_path))
    colors = class_colors(run.samples, 0.3)
    assert len(set(colors.values())) == len(colors) == 6


def test_no_evaluation(tmp_path):
    with pytest.raises(InputError) as error:
        load_run(tmp_path)
    for part in ("inference/<dataset>/results.json", "--eval-only MODEL.WEIGHTS"):
        assert part in str(error.value)
    with pytest.raises(InputError, match=r"inference/other_val/results\.json"):
        load_run(_write_run(tmp_path), "other_val")
    (tmp_path / "run/inference/photos_val/lvis_instances_results.json").unlink()
    with pytest.raises(InputError, match=r"lvis_instances_results\.json.*--eval-only"):
        load_run(tmp_path / "run")


def _load_command():
    spec = importlib.util.spec_from_file_location("report_command", ROOT / "tools" / "report.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    return command


def test_command(tmp_path, capsys):
    folder = _write_run(tmp_path)
    command = _load_command()
    assert command.main([str(folder)]) == 0
    output = capsys.readouterr().out
    assert "APr" in output and "12.50" in output and output.endswith(f"{folder}/summary.png\n")
    _assert_good_picture(folder / "summary.png")
    assert command.main([str(folder), "--output", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").is_file()
    capsys.readouterr()
    assert command.main([str(tmp_path / "nothing")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("No evaluation in")
    assert len(captured.err.splitlines()) == 1


def test_without_detectron2_and_torch(tmp_path):
    folder = _write_run(tmp_path)
    code = (
        "import sys, runpy, warnings; warnings.simplefilter('ignore');"
        "sys.modules.update(detectron2=None, torch=None);"
        f"sys.argv = ['report.py', {str(folder)!r}];"
        f"runpy.run_path({str(ROOT / 'tools' / 'report.py')!r}, run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "summary.png").is_file()
    assert isinstance(load_run(folder), Run)
