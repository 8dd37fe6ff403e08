"""Reading run folders: what is in them, and a sentence for each that cannot be read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic import write_dataset, write_run

from igam_d2.errors import InputError
from igam_d2.report.ground_truth import load_found, load_ground_truth
from igam_d2.report.run_folder import distinct_names, load_run, load_runs


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data", photos=False)


@pytest.fixture
def run(tmp_path, dataset):
    return write_run(tmp_path / "run", dataset)


def edit(folder, change, dataset="synthetic_val"):
    """Let `change` mend or spoil the results."""
    path = folder / "inference" / dataset / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def sentence(folders) -> str:
    """The one problem of reading these."""
    _, (problem,) = load_runs(folders)
    assert "\n" not in problem and problem.endswith(".")
    return problem


def test_what_a_run_holds(run):
    loaded = load_run(run)
    assert loaded.name == "run" and loaded.dataset == "synthetic_val"
    assert len(loaded.class_names) == 10 and loaded.metrics["bbox"]["APl"] is None
    ap = loaded.class_ap("bbox")
    assert np.isnan(ap[-1]) and np.isfinite(ap[:-1]).all()  # the last class has no object
    assert loaded.history.iterations.tolist() == list(range(149, 1200, 150))
    assert loaded.history.information.shape == (8, 10)
    assert np.isnan(loaded.history.information[:, 0]).all()
    assert np.isnan(loaded.curve.total_loss[6]) and len(loaded.curve.iterations) == 60
    x, y = loaded.curve.evaluations["bbox/AP"]
    assert x.tolist() == [400, 800, 1200] and y[0] == pytest.approx(30 + 20 / 3)
    assert "bbox/APr" not in loaded.curve.evaluations  # NaN each time


def test_the_last_predictor_and_the_later_line_count(run):
    with open(run / "information.jsonl", "a") as f:
        for predictor, bits in (("box_predictor.10", 3.0), ("box_predictor.9", 5.0)):
            line = {"iteration": 7, "predictor": predictor, "information": [bits] * 10}
            f.write("\n" + json.dumps(line))
            f.write("\n" + json.dumps(line | {"information": [bits + 1] * 10}) + "\n")
    # Predictors of one name with different numbers, as of a cascade
    lines = (run / "information.jsonl").read_text().splitlines()
    kept = [line for line in lines if "roi_heads" not in line]
    (run / "information.jsonl").write_text("\n".join(kept))
    history = load_run(run).history
    assert history.information.tolist() == [[4.0] * 10]
    assert history.potentials is None


def test_lines_of_another_form_are_left_out(run):
    good = {"iteration": 10_000, "predictor": "roi_heads.box_predictor", "information": [1.0] * 10}
    with open(run / "information.jsonl", "a") as f:
        for wrong in (
            {"information": ["much"] * 10},
            {"information": 3},
            {"potentials": 0.5},
            {"potentials": [0.1] * 9},
            {"potentials": [[0.1]] * 10},
        ):
            f.write("\n" + json.dumps(good | wrong) + "\n")
        f.write("[" * 100_000 + "\n")
    history = load_run(run).history
    assert history.iterations[-1] == 1199 and len(history.potentials) == 10
    with open(run / "information.jsonl", "a") as f:
        f.write(json.dumps(good | {"margin_sign": -1}) + "\n")
    history = load_run(run).history
    assert history.iterations[-1] == 10_000 and history.margin_sign == -1


def append(run, *rows):
    with open(run / "metrics.json", "a") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_resumed_training_undoes_what_followed(run):
    append(run, {"iteration": 300, "bbox/AP": 7.0})  # an evaluation alone undoes nothing
    assert len(load_run(run).curve.iterations) == 60
    append(run, {"iteration": 819, "total_loss": 0.5}, {"iteration": 839, "total_loss": 0.4})
    curve = load_run(run).curve
    assert curve.iterations.tolist() == list(range(19, 840, 20))
    assert curve.total_loss[-2:].tolist() == [0.5, 0.4]
    assert curve.evaluations["bbox/AP"][0].tolist() == [300, 400, 800]
    append(run, {"iteration": 19, "total_loss": 2.0})  # a new training in the same folder
    curve = load_run(run).curve
    assert curve.iterations.tolist() == [19] and not curve.evaluations


def test_of_two_test_sets_the_reports_is_read(run):
    for name, ap in (("synthetic_val", 8.0), ("other_val", 9.0)):
        append(run, {"iteration": 1200, f"{name}/bbox/AP": ap, f"{name}/bbox/AP50": 1.0})
    curve = load_run(run).curve
    assert {key: y.tolist() for key, (_, y) in curve.evaluations.items()} == {"bbox/AP": [8.0]}


def test_names_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / name for name in ("a/x", "b/x", "b/y")]
    assert distinct_names(paths) == ["a/x", "b/x", "y"]


def test_a_run_given_twice_is_read_once(run):
    runs, problems = load_runs([run, run / ".." / "run"])
    assert len(runs) == 1 and not problems


def test_no_results(tmp_path, run):
    problem = sentence([tmp_path / "nothing", run])
    assert str(tmp_path / "nothing") in problem and "--eval-only" in problem
    _, (problem,) = load_runs([run], "other_val")
    assert "inference/other_val/results.json" in problem and "synthetic_val" in problem


def test_results_cut_short(run):
    path = run / "inference/synthetic_val/results.json"
    path.write_text(path.read_text()[:300])
    problem = sentence([run])
    assert str(path) in problem and "whole JSON" in problem and "evaluate again" in problem
    path.write_text("[" * 100_000)
    assert "whole JSON" in sentence([run])


@pytest.mark.parametrize("key", ["classes", "metrics", "dataset"])
def test_results_of_another_form(run, key):
    edit(run, lambda results: results.pop(key))
    assert "not the results of an evaluation" in sentence([run])


def test_results_of_an_older_version(run):
    def age(results):
        for record in results["classes"]:
            record["frequency"] = record.pop("group")

    edit(run, age)
    assert "older version" in sentence([run]) and "evaluate again" in sentence([run])


def test_another_data_set_and_other_classes(tmp_path, run, dataset):
    other = write_run(tmp_path / "other", dataset | {"dataset": "another_val"})
    runs, (problem,) = load_runs([run, other])
    assert [r.name for r in runs] == ["run"]
    assert "synthetic_val" in problem and "another_val" in problem and str(other) in problem
    renamed = write_run(tmp_path / "renamed", dataset)
    edit(renamed, lambda results: results["classes"][3].update(name="someone else"))
    problem = sentence([run, renamed])
    assert str(renamed) in problem and str(run) in problem and "same annotations" in problem


def test_a_later_run_is_read_on_the_first_ones_data_set(tmp_path, run, dataset):
    both = write_run(tmp_path / "both", dataset)
    later = both / "inference/later_val"
    shutil.copytree(both / "inference/synthetic_val", later)
    edit(both, lambda results: results.update(dataset="later_val"), "later_val")
    runs, problems = load_runs([run, both])
    assert [r.dataset for r in runs] == ["synthetic_val"] * 2 and not problems
    assert load_run(both).dataset == "later_val"  # alone, what was evaluated last


def test_annotations_and_detections(run, dataset):
    loaded = load_run(run)
    truth = load_ground_truth(loaded)
    assert len(truth.class_index) == len(dataset["annotations"])
    ann = dataset["annotations"][-1]
    image = truth.image_id.tolist().index(ann["image_id"])
    boxes = truth.box[truth.of(image)].tolist()
    assert ann["bbox"] in boxes and truth.paths[image].parts[-2:] == (
        "val",
        f"{ann['image_id']}.jpg",
    )
    everything = load_found(loaded, truth, 0.0, np.zeros(0, np.int64))
    found = load_found(loaded, truth, 0.5, np.array([image]))
    assert (found.score[found.of(0)] >= 0.5).all()
    assert (np.diff(found.score[found.of(image)]) <= 0).all()
    for one in (0, image):
        expected = everything.score[everything.of(one)]
        expected = expected if one == image else expected[expected >= 0.5]
        assert found.score[found.of(one)].tolist() == expected.tolist()
    assert found.best(image, 0.5).stop < found.of(image).stop


def test_unknown_images_and_categories_are_counted(run, dataset):
    content = json.loads(Path(dataset["json_file"]).read_text())
    gone = content["images"].pop()["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]
    with open(dataset["json_file"], "w") as f:
        json.dump(content, f)
    edit(run, lambda results: results["classes"][0].update(id=999_999))
    loaded = load_run(run)
    with np.load(run / "inference/synthetic_val/detections.npz") as data:
        unknown = ((data["image_id"] == gone) | (data["category_id"] == 2)).sum()
    found = load_found(loaded, load_ground_truth(loaded), 0.0, np.zeros(0, np.int64))
    assert found.unknown == unknown > 0


def test_annotations_that_are_gone_or_cut_short(run, dataset):
    loaded = load_run(run)
    with open(dataset["json_file"], "r+") as f:
        f.truncate(500)
    with pytest.raises(InputError, match=r"val\.json is not a whole file"):
        load_ground_truth(loaded)
    loaded.results["json_file"] = "/nowhere/val.json"
    with pytest.raises(InputError, match=r"/nowhere/val\.json .* are not found: copy"):
        load_ground_truth(loaded)
