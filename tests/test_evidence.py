"""The evidence benchmark: a tiny version of it, and what counts as done, chosen and comparable."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from igam_d2.config import add_igam_config
from igam_d2.errors import InputError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SPLITS = ("digits_selection", "digits_test")


@pytest.fixture
def evidence(monkeypatch, digits):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits))
    import evidence
    import study.plan

    monkeypatch.setattr(study.plan, "SCALES", (20,))
    yield evidence
    for name in {*SPLITS} & {*DatasetCatalog.list()}:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    own = {path.stem for path in BENCHMARKS.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]


@pytest.fixture
def config_file(cfg, tmp_path):
    """Of a tiny detector; its test split are the training images, named before the selection."""
    default = get_cfg()
    add_igam_config(default)
    content = differing(yaml.safe_load(cfg.dump()), yaml.safe_load(default.dump()))
    of_digits = {"format": "lvis", "image_root": "digits_lt"}
    content["DATASETS"] = {
        "REGISTER": [
            {"name": name, "json": f"digits_lt/annotations/digits_lt_{split}.json", **of_digits}
            for name, split in zip(SPLITS, ("val", "train"), strict=True)
        ],
        "TRAIN": ["digits_lt_train"],
        "TEST": [*SPLITS[::-1]],
    }
    content["SOLVER"] |= {"BASE_LR": 0.01, "WARMUP_ITERS": 1}
    for key in ("OUTPUT_DIR", "SEED"):
        content.pop(key, None)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def differing(content: dict, default: dict) -> dict:
    """What a config file must say: a whole one takes long to read."""
    found = {key: value for key, value in content.items() if value != default[key]}
    nodes = {key: node for key, node in found.items() if isinstance(node, dict)}
    return found | {key: differing(node, default[key]) for key, node in nodes.items()}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def args(config_file, output):
    options = ["--config-file", str(config_file), "--output", str(output), "--jobs", "2"]
    iterations = ["--full-iterations", "2", "--cached-iterations", "3", "--passes", "1"]
    return [*options, *iterations, "--seeds", "1", "--full-seeds", "1", "--steps", "2"]


@pytest.fixture
def experiment(evidence, config_file, output):
    """A function that makes the same experiment, as a new start would; with other settings."""

    def make(**changed):
        iterations = {"full": 2, "cached": 3}
        settings = {"seeds": [1], "full_seeds": [1], "passes": 1, "opts": [], **changed}
        return evidence.Experiment(config_file, output, iterations=iterations, **settings)

    return make


def results_of(run: Path, dataset: str) -> Path:
    return run / "inference" / dataset / "results.json"


def message_of(evidence, args, capsys) -> str:
    """Of a command that is refused in a line."""
    with pytest.raises(SystemExit) as raised:
        evidence.main(args)
    assert raised.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


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


def leave(run, *, age: float = 0, selection: float | None = 1.0, test: float | None = 2.0) -> None:
    """What a run leaves that ended `age` seconds ago; a split with None was not evaluated."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(run.cfg.dump())
    files = [run.model, run.folder / "last_checkpoint"]
    for dataset, ap in zip(SPLITS, (selection, test), strict=True):
        file = results_of(run.folder, dataset)
        file.unlink(missing_ok=True)
        if ap is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"metrics": {"bbox": {"AP": ap}}}))
            files.append(file)
    for file in files[:2]:
        file.write_text("model")
    aged(age, *files)


def aged(seconds: float, *files: Path) -> None:
    then = time.time() - seconds
    for file in files:
        os.utime(file, (then, then))


def test_what_counts_as_done(experiment):
    from study.plan import FULL, softmax_ce

    def run():
        return experiment().run(FULL, softmax_ce(), 1)

    first = run()
    assert first.result is None and not first.begun()
    leave(first, test=None)
    assert run().result is None and run().begun()
    leave(first, selection=None)
    assert run().result is None
    leave(first)
    assert run().result == {"selection": 1.0, "test": 2.0}
    aged(60, results_of(first.folder, "digits_test"))  # of another training
    assert run().result is None
    leave(first)
    first.model.unlink()
    assert run().result is None


def test_another_machine_may_go_on(experiment):
    from study.plan import FULL, softmax_ce

    run = experiment().run(FULL, softmax_ce(), 1)
    leave(run)
    content = yaml.safe_load((run.folder / "config.yaml").read_text())
    content["MODEL"]["DEVICE"], content["OUTPUT_DIR"] = "cuda", "/elsewhere"
    content["DATALOADER"]["NUM_WORKERS"] = 7
    (run.folder / "config.yaml").write_text(yaml.safe_dump(content))
    assert experiment().run(FULL, softmax_ce(), 1).result is not None
    content["SOLVER"]["BASE_LR"] = 0.02
    (run.folder / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"was run with SOLVER.BASE_LR 0.02, which is now 0.01"):
        experiment().run(FULL, softmax_ce(), 1)


def test_a_cache_must_be_of_its_detector(experiment, monkeypatch):
    import run_queue
    import study.jobs
    from study.plan import CACHED, FULL, cosine_ce, softmax_ce

    def run(**changed):
        return experiment(**changed).run(CACHED, cosine_ce(20), 1)

    def write_cache(age=30, **changed):
        content = {"passes": 1, "seed": 1, "sha256": study.jobs.digest_of(detector.model)}
        cache.file.parent.mkdir(parents=True, exist_ok=True)
        cache.file.write_text(json.dumps(content | changed))
        aged(age, cache.file)

    detector = experiment().run(FULL, softmax_ce(), 1)
    leave(detector, age=60)
    cache = run().cache
    assert cache.result is None and run().needs[0].result is not None
    write_cache()
    assert run().cache.result and run().result is None
    leave(run())
    assert run().result == {"selection": 1.0, "test": 2.0} and run().begun()

    # It was made anew since: the run is trained from the beginning
    commands = []
    monkeypatch.setattr(run_queue.Job, "start", lambda job, _: commands.append(job.command))
    run().start({})
    write_cache(age=-30)
    assert run().result is None and not run().begun()
    run().start({})
    assert ["--resume" in command for command in commands] == [True, False]
    cache.file.unlink()
    assert run().result is None and not run().begun()

    for changed, words in (
        ({"passes": 2}, "was made with passes 2, which is now 1: choose another --output, or"),
        ({"seed": 3}, "was made with seed 3, which is now 1: choose another --output, or"),
        ({"sha256": "0"}, "is of another detector than .*/full/softmax_ce/seed1/model_final.pth: "),
    ):
        write_cache(**changed)
        with pytest.raises(InputError, match=words):
            run()
    write_cache()
    digests = []
    monkeypatch.setattr(study.jobs, "digest_of", lambda path: digests.append(path) or "other")
    run(), run()
    assert not digests  # known: the file is the same
    leave(detector, age=50)
    for _ in range(2):
        with pytest.raises(InputError, match="another detector"):
            run()
    assert len(digests) == 1
    detector.model.unlink()
    with pytest.raises(InputError, match="another detector"):
        run()


def test_a_choice_is_made_by_the_selection_split_once(evidence, output, capsys):
    from study.choices import Choices
    from study.plan import Choice, Step, cosine_ce

    candidates = {Choice(scale): cosine_ce(scale) for scale in (10, 20, 30)}
    step = Step("the scale", (), candidates)
    aps = {}  # (scale, seed) -> AP on the selection split, None for a failure, or missing

    def run(kind, method, seed):
        assert kind == "cached"
        place = int(method.name.rpartition("_s")[2]), seed
        ap = aps.get(place)
        result = None if ap is None else {"selection": ap, "test": 100 - ap}
        problem = "no" if place in aps and ap is None else None
        return SimpleNamespace(result=result, problem=problem, over=place in aps)

    def choose(seeds, file=output / "choices.json"):
        choices = Choices(file)
        chosen = choices.choose(step, Choice(), SimpleNamespace(seeds=seeds, run=run))
        choices.write()
        return chosen, capsys.readouterr().out

    aps |= {(10, 1): 1.0, (10, 2): 4.0, (20, 1): 3.0, (20, 2): 3.0, (30, 1): 9.0}
    assert choose([1, 2]) == (Choice(), "Nothing is chosen yet: cosine_ce_s30 is not done.\n")
    aps[30, 2] = None
    chosen, said = choose([1, 2])
    assert chosen == Choice(20) and said.endswith("s = 10 2.50, s = 20 3.00. Chosen: s = 20\n")
    written = json.loads((output / "choices.json").read_text())
    assert written["scale"] == 20
    assert written["steps"]["the scale"] == {
        "chosen": "s = 20",
        "seeds": [1, 2],
        "AP": {"s = 10": 2.5, "s = 20": 3.0},
        "failed": ["s = 30"],
    }

    # Once made it is kept, with fewer runs or with more, and whoever would be chosen now
    assert choose([1, 2, 3]) == (Choice(20), "")
    aps |= {(10, 3): 9.0, (20, 3): 1.0, (30, 3): 1.0}
    chosen, said = choose([1, 2, 3])
    assert chosen == Choice(20) and said.count("\n") == 1
    assert "now s = 10 4.67, s = 20 2.33, but s = 20 was chosen before and is kept: delete" in said
    assert json.loads((output / "choices.json").read_text()) == written
    assert choose([1, 2, 3], output / "anew.json")[0] == Choice(10)
    aps |= dict.fromkeys(aps)
    assert choose([1, 2], output / "failed.json") == (
        Choice(),
        "Nothing can be chosen: runs of all candidates failed.\n",
    )
    # One without the record of how, of an older version
    (output / "old.json").write_text('{"scale": 30, "reading": "mean", "shrinkage": "none"}')
    assert choose([7], output / "old.json") == (Choice(30), "")
    (output / "old.json").write_text("[]")
    with pytest.raises(InputError, match="is not a file of choices"):
        choose([7], output / "old.json")
