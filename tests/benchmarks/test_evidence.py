"""The evidence benchmark: a tiny version of it, its plan, and what it refuses."""

import json

import pytest
import torch
from tiny_evidence import SPLITS, message_of, results_of


def test_a_tiny_version(evidence, args, output, capsys):
    assert evidence.main(args) == 0
    said = capsys.readouterr().out
    order = ["1/1 full softmax_ce, seed 1: AP", "RoI features, seed 1: done"]
    order += ["3/3 cached cosine_ce_s20, seed 1: AP", "Chosen: s = 20", "The plan is not done"]
    assert sorted(order, key=said.index) == order
    # Of the test split nothing is written before the whole plan is done
    files = {"experiment.json", "choices.json", "times.jsonl"}
    assert {path.name for path in output.iterdir()} == {
        *(*files, "full", "cached", "cache", ".lock")
    }
    runs = {
        "full": output / "full/softmax_ce/seed1",
        "cached": output / "cached/cosine_ce_s20/seed1",
    }
    assert all((run / "model_final.pth").is_file() for run in runs.values())
    chosen = json.loads((output / "choices.json").read_text())
    assert (chosen["scale"], chosen["reading"]) == (20, None)
    metrics = json.loads(results_of(runs["cached"], "digits_selection").read_text())["metrics"]
    (choice,) = chosen["steps"].values()
    assert choice == {
        "chosen": "s = 20",
        "seeds": [1],
        "AP": {"s = 20": metrics["bbox"]["AP"]},
        "failed": [],
    }
    lines = [json.loads(line) for line in (output / "times.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["full", "cache", "cached"]
    facts = json.loads((output / "experiment.json").read_text())
    cache = json.loads((output / "cache/seed1/rois/cache.json").read_text())
    assert facts["annotations"] == cache["annotations"] and len(facts["annotations"]) == 3
    assert (facts["num_classes"], facts["iterations"]) == (10, {"full": 2, "cached": 3})

    # The tables have what is in the folders, each of its split
    wanted = {"digits_test": [61.125, 72.25], "digits_selection": [53.375, 84.5]}
    for dataset, values in wanted.items():
        for run, ap in zip(runs.values(), values, strict=True):
            file = results_of(run, dataset)
            content = json.loads(file.read_text())
            content["metrics"]["bbox"]["AP"] = ap
            file.write_text(json.dumps(content))
    (output / "experiment.json").unlink()
    assert evidence.main([*args, "--report"]) == 0
    assert "The plan is not done" not in capsys.readouterr().out
    assert not (output / "experiment.json").exists()  # of what began the runs
    tables = json.loads((output / "tables.json").read_text())
    for kind, test, selection in zip(runs, *wanted.values(), strict=True):
        titles = [title for title, table in tables.items() if _of_kind(table, kind)]
        of_test = [title for title in titles if test in _numbers(tables[title])]
        of_selection = [title for title in titles if selection in _numbers(tables[title])]
        assert of_test and of_selection and not {*of_test} & {*of_selection}
        assert all("selection" in title for title in of_selection)
    page = (output / "tables.md").read_text()
    assert all(f"| {ap:.1f} " in page for values in wanted.values() for ap in values)
    assert (output / "figures").is_dir()

    # Again: nothing is trained; what does not fit is not mixed in
    model = runs["cached"] / "model_final.pth"
    written = model.stat().st_mtime_ns
    assert evidence.main(args) == 0
    assert model.stat().st_mtime_ns == written and "Step" not in capsys.readouterr().out
    assert json.loads((output / "experiment.json").read_text()) == facts
    more = [*args]
    more[more.index("--cached-iterations") + 1] = "4"
    assert "cosine_ce_s20/seed1 was run with SOLVER." in message_of(evidence, more, capsys)
    more = [*args]
    more[more.index("--passes") + 1] = "2"
    message = message_of(evidence, more, capsys)
    assert "cache/seed1/rois was made with passes 1, which is now 2: choose another" in message


def _of_kind(table: object, kind: str) -> bool:
    return isinstance(table, dict) and table.get("kind") == kind


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for entry in value for number in _numbers(entry)]
    return [value] if isinstance(value, float) else []


def test_the_plan(evidence):
    import study.plan as plan

    assert len(plan.steps(plan.Choice())) == 2
    assert len(plan.steps(plan.Choice(20))) == 6
    planned = plan.steps(plan.Choice(20, "ratio", "oas"))
    names = [(kind, method.name) for step in planned for kind, method in step.runs]
    assert len(names) == len(set(names)) and names[0] == ("full", "softmax_ce")
    assert {c: m.name for c, m in planned[4].candidates.items()} == {
        plan.Choice(20, *pair): f"igam_{pair[0]}_{pair[1]}_s20" for pair in plan.GRID
    }
    cached = {name for kind, name in names if kind == "cached"}
    assert {m.name for m in planned[4].candidates.values()} <= cached
    assert {"igam_ratio_oas_s20_rfs", "igam_ratio_oas_s20_opposite", "seesaw"} <= cached


def test_tables_follow_the_whole_plan(evidence, args, monkeypatch, capsys):
    """With runs that are over at once; a choice is not made by the test split."""
    from study.plan import Choice

    written = []

    def write_evidence(experiment, choice, runs, measurements):
        assert all(job.result for job in measurements)
        written.append((choice, [run.name for run in runs]))
        return []

    def execute(jobs, environments, *, deadline, times):
        for job in jobs:
            best = "igam_paper_oas_s20/" in str(job.folder)
            job.result = {"selection": 2.0 if best else 1.0, "test": 1.0 if best else 2.0}

    monkeypatch.setattr(evidence, "execute", execute)
    monkeypatch.setattr(evidence, "write_evidence", write_evidence)
    del args[args.index("--steps") :]
    assert evidence.main([*args, "--steps", "7"]) == 0
    assert not written and "The plan is not done" in capsys.readouterr().out
    assert evidence.main(args) == 0
    ((choice, names),) = written
    assert choice == Choice(20, "paper", "oas")
    assert "full igam_paper_oas_s20_opposite, seed 1" in names and len(names) == len({*names})


def test_out_of_time_nothing_begins(evidence, args, output, capsys):
    assert evidence.main([*args, "--hours", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("Step") for line in lines)
    assert "- Step 1, softmax CE, the common detectors: 1 of 1 are left" in lines
    assert "- Step 2, the scale, with cosine CE: 2 of 2 are left" in lines
    assert {path.name for path in output.iterdir()} == {
        *(".lock", "experiment.json", "choices.json")
    }


def test_two_do_not_work_in_one_folder(evidence, args, output, capsys):
    with evidence.alone(output):
        message = message_of(evidence, args, capsys)
    assert message.startswith(f"error: Another evidence.py is at work in {output}: ")


@pytest.mark.parametrize(
    "key",
    [
        *("OUTPUT_DIR", "SEED", "SOLVER.MAX_ITER", "MODEL.WEIGHTS", "MODEL.DEVICE"),
        "MODEL.ROI_HEADS.NUM_CLASSES",
    ],
)
def test_options_that_it_sets_itself_are_refused(evidence, args, capsys, key):
    message = message_of(evidence, [*args, "--", key, "7"], capsys)
    assert message.startswith(f"error: Leave {key} out of the options after --: ")


def test_the_data_must_be_there(evidence, args, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    message = message_of(evidence, [*args, "--", "DATASETS.TRAIN", "('digits_test',)"], capsys)
    assert "tools/prepare_meshes_lt.py make" in message


def test_the_data_must_be_those_of_the_first_start(evidence, args, output, experiment, capsys):
    experiment().begin()
    file = output / "experiment.json"
    content = json.loads(file.read_text())
    content["annotations"]["digits_test"] = "another"
    content["torch"] = "1.0"  # is told, not asked for
    file.write_text(json.dumps(content))
    assert "The annotations of 'digits_test' are not" in message_of(evidence, args, capsys)
    assert "'digits_test' are not" in message_of(evidence, [*args, "--report"], capsys)
    file.write_text("{")
    assert f"{file} cannot be read" in message_of(evidence, args, capsys)


@pytest.mark.parametrize(
    "names", [("digits_test",), ("digits_lt_val", "digits_test"), ("digits_test", "digits_test")]
)
def test_the_splits_must_have_their_names(evidence, args, experiment, capsys, names):
    assert experiment().datasets == SPLITS
    message = message_of(evidence, [*args, "--", "DATASETS.TEST", str(names)], capsys)
    assert "one with 'selection' and one with 'test' in its name" in message


def test_nothing_to_report_and_gpus_that_are_not_there(
    evidence, args, output, experiment, capsys, monkeypatch
):
    assert f"There is no {output}: --report" in message_of(evidence, [*args, "--report"], capsys)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "--gpus is 2, but" in message_of(evidence, [*args, "--gpus", "2"], capsys)
    assert not output.exists()

    from study.plan import FULL, softmax_ce

    for gpus, device in ((0, "cpu"), (1, "cuda")):
        command = experiment(gpus=gpus).run(FULL, softmax_ce(), 1).command
        assert command[command.index("MODEL.DEVICE") + 1] == device
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(evidence, "run", lambda args, opts, slots: seen.append(len(slots)))
    for given in (["--gpus", "3"], ["--gpus", "1"], ["--jobs", "1", "--gpus", "3"]):
        evidence.main([*given, "--output", str(output)])
    assert seen == [3, 2, 1]
