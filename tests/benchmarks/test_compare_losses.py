"""The comparison of losses, on the small Digits-LT."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from igam_d2.report.run_folder import load_runs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROOT = BENCHMARKS.parent
# As train_net.py, but for a method that fails, which would take as long as one that does not
TRAIN_NET = f"""
import runpy, sys
if any("diverges" in argument for argument in sys.argv):
    raise FloatingPointError("Loss became infinite")
runpy.run_path({str(ROOT / "train_net.py")!r}, run_name="__main__")
"""
TINY = ("SOLVER.BASE_LR", "0.01", "SOLVER.WARMUP_ITERS", "1")


@pytest.fixture
def comparison(cfg, digits, tmp_path, monkeypatch):
    """compare_losses with configs of the tiny detector in the place of those of Digits-LT."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits))
    import compare_losses
    import comparison_runs

    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.setattr(comparison_runs, "CONFIGS", folder)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ("digits_lt_val",)
    (folder / "Base.yaml").write_text(cfg.dump())
    for name, text in {
        "softmax_ce": "MODEL: {ROI_BOX_HEAD: {CLS_LOSS: {NAME: SoftmaxCELoss}}}",
        "diverges": "SOLVER: {MOMENTUM: 0.5}",
        "rfs": """
MODEL: {ROI_BOX_HEAD: {CLS_LOSS: {NAME: SoftmaxCELoss}}}
DATALOADER: {SAMPLER_TRAIN: RepeatFactorTrainingSampler, REPEAT_THRESHOLD: 0.1}""",
        "tau": """
MODEL: {ROI_BOX_HEAD: {CLS_LOSS: {NAME: SoftmaxCELoss}}}
TEST: {CALIBRATION: {TAU: 1.0}}""",
        "mistaken": "MODEL: {ROI_BOX_HEAD: {CLS_LOSS: {NAME: IGAMLos}}}",
    }.items():
        (folder / f"{name}.yaml").write_text(f"_BASE_: Base.yaml\n{text}\n")
    (tmp_path / "train_net.py").write_text(TRAIN_NET)
    monkeypatch.setattr(comparison_runs, "ROOT", tmp_path)
    yield compare_losses
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_compare(comparison, tmp_path, capsys, monkeypatch):
    reported = []  # the page itself has tests of its own

    def write_report(folders, output, dataset):
        reported.append([run.name for run in load_runs(folders, dataset)[0]])
        return output / "report.html", []

    monkeypatch.setattr(comparison, "write_report", write_report)
    output = tmp_path / "output"
    args = ["--iterations", "2", "--seeds", "3", "--output", str(output), "--jobs", "1"]
    assert comparison.main(["tau", "diverges", "mistaken", *args, "--", *TINY]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 runs, 0 of them done before; 1 at a time"
    # The baseline, which tau needs, was added, and trained before
    order = [line.split()[1] for line in lines if ", seed 3: " in line]
    assert order == ["mistaken,", "softmax_ce,", "tau,", "diverges,"]
    model = output / "seed3/softmax_ce/model_final.pth"
    assert model.is_file() and not list((output / "seed3/tau").glob("*.pth"))  # only evaluates
    assert reported == [["softmax_ce", "tau"]]

    content = json.loads((output / "table.json").read_text())
    methods = {record["method"]: record for record in content["methods"]}
    assert list(methods) == ["softmax_ce", "tau", "diverges", "mistaken"]
    assert (content["iterations"], content["seeds"], content["opts"]) == (2, [3], list(TINY))
    file = output / "seed3/softmax_ce/inference/digits_lt_val/results.json"
    results = json.loads(file.read_text())
    wanted = {**results["metrics"]["bbox"], "bias std": results["bias"]["bbox"]["std"]}
    for name, metric in methods["softmax_ce"]["metrics"].items():
        assert metric == {"values": [wanted[name]], "mean": wanted[name], "std": None}
    why = "FloatingPointError: Loss became infinite (exit status 1)"
    assert methods["diverges"]["failed"]["3"] == why
    assert "did you mean 'IGAMLoss'" in methods["mistaken"]["failed"]["3"]
    page = (output / "table.md").read_text()
    assert "2 iterations, seeds 3;" in page and "- diverges, seed 3, failed: Floating" in page

    # Again: what is done is not done again
    written = model.stat().st_mtime_ns
    assert comparison.main(["softmax_ce", "tau", *args, "--", *TINY]) == 0
    assert "2 runs, 2 of them done before" in capsys.readouterr().out
    assert model.stat().st_mtime_ns == written

    # Other settings are neither counted nor mixed in
    args[1] = "3"
    assert comparison.main(["softmax_ce", *args, "--", *TINY]) == 2
    message = capsys.readouterr().err
    assert "softmax_ce was run with SOLVER." in message and "another --output" in message
    (model.parent / "config.yaml").unlink()
    assert comparison.main(["softmax_ce", *args, "--", *TINY]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {model.parent} may have been run with other settings, as it")
    assert message.endswith("another --output, or delete it.\n") and message.count("\n") == 1


def test_only_calibrations_are_evaluations_of_the_baseline(comparison, tmp_path):
    def runs(*opts):
        methods = ["softmax_ce", "tau", "rfs", "diverges"]
        return {r.method: r for r in comparison.plan(methods, [3], 2, tmp_path, list(opts))}

    for opts in ((), ("TEST.CALIBRATION.TAU", "0.5"), ("TEST.CALIBRATION.NORCAL_GAMMA", "0.6")):
        planned = runs(*opts)
        assert [m for m, run in planned.items() if not run.trains] == ["tau"]
        assert planned["tau"].detector is planned["softmax_ce"]
        assert str(planned["softmax_ce"].model) == planned["tau"].cfg.MODEL.WEIGHTS
        others = [planned[method] for method in ("softmax_ce", "rfs")]
        assert all(r.detector is None and r.cfg.MODEL.WEIGHTS == "" for r in others)


@pytest.mark.parametrize(
    "key, hint",
    [
        ("OUTPUT_DIR", "--output"),
        ("SEED", "--seeds"),
        ("SOLVER.MAX_ITER", "--iterations"),
        ("SOLVER.CHECKPOINT_PERIOD", "--iterations"),
        ("MODEL.WEIGHTS", "--output"),
    ],
)
def test_options_that_it_sets_itself_are_refused(comparison, tmp_path, capsys, key, hint):
    args = ["softmax_ce", "--output", str(tmp_path / "output"), "--", *TINY, key, "7"]
    assert comparison.main(args) == 2
    out, message = capsys.readouterr()
    assert message.startswith(f"error: Leave {key} out of the options after --: ")
    assert message.endswith(f"{hint}.\n") and message.count("\n") == 1 and not out
    assert not (tmp_path / "output").exists()


def test_an_interruption_stops_the_runs_and_is_told_in_a_line(
    comparison, tmp_path, capsys, monkeypatch
):
    started = []

    import run_queue

    def start(run, environment):
        command = [sys.executable, "-c", "import time; time.sleep(100)"]
        started.append(subprocess.Popen(command, start_new_session=True))
        return started[-1]

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_queue.Job, "start", start)
    clock = SimpleNamespace(sleep=interrupt, monotonic=time.monotonic)
    monkeypatch.setattr(run_queue, "time", clock)
    args = ["softmax_ce", "rfs", "--seeds", "3", "--output", str(tmp_path / "output"), "--", *TINY]
    assert comparison.main(args) == 130
    assert len(started) == 2 and all(process.poll() is not None for process in started)
    assert capsys.readouterr().err == "Interrupted: the same command goes on from here.\n"


def test_unknown_config_is_refused(comparison, capsys):
    with pytest.raises(SystemExit) as raised:
        comparison.main(["softmax"])
    assert raised.value.code == 2
    assert (
        "no config softmax, only diverges, mistaken, rfs, softmax_ce, tau"
        in capsys.readouterr().err
    )


def test_summary_over_seeds(comparison):
    from comparison_table import METRICS, markdown, summarise

    def run(method, seed, ap, problem=None):
        metrics = None if ap is None else {**dict.fromkeys(METRICS, ap), "APr": None}
        return SimpleNamespace(method=method, seed=seed, result=metrics, problem=problem)

    runs = [run("a", 1, 10.0), run("a", 2, 12.0), run("b", 1, 30.0), run("b", 2, None, "why")]
    runs += [run("c", 1, None, "x"), run("c", 2, None, "x")]
    records = summarise(runs, by_ap=True)
    assert [record["method"] for record in records] == ["b", "a", "c"]
    assert [record["method"] for record in summarise(runs, by_ap=False)] == ["a", "b", "c"]
    facts = {"iterations": 1, "seeds": [1, 2], "hardware": "h", "torch": "t", "jobs": 1,
             "threads": 1, "date": "d", "opts": []}  # fmt: skip
    page = markdown(records, facts)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()
            if line.startswith("|")]  # fmt: skip
    assert rows[2] == ["b", "1 of 2", "30.0", "-", "30.0", "30.0", "30.0"]
    assert rows[3] == ["a", "2", "11.0 ± 1.4", "-", *["11.0 ± 1.4"] * 3]
    assert rows[4] == ["c", "0 of 2", *["failed"] * 5]
    assert "- b, seed 2, failed: why" in page
