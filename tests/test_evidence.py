"""A tiny version of the evidence benchmark: a whole detector and a second stage on its RoIs."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def evidence(monkeypatch, digits):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits))
    import evidence
    import study.plan

    monkeypatch.setattr(study.plan, "SCALES", (20,))
    yield evidence
    if "digits_again" in DatasetCatalog.list():
        DatasetCatalog.remove("digits_again")
        MetadataCatalog.remove("digits_again")
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def args(cfg, tmp_path):
    """Of a tiny detector, whose test split is its selection split under another name."""
    content = yaml.safe_load(cfg.dump())
    files = {"json": "digits_lt/annotations/digits_lt_val.json", "image_root": "digits_lt"}
    content["DATASETS"] |= {
        "REGISTER": [{"name": "digits_again", "format": "lvis", **files}],
        "TRAIN": ["digits_lt_train"],
        "TEST": ["digits_lt_val", "digits_again"],
    }
    content["SOLVER"] |= {"BASE_LR": 0.01, "WARMUP_ITERS": 1}
    for key in ("OUTPUT_DIR", "SEED"):
        content.pop(key, None)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content))
    options = ["--config-file", str(file), "--output", str(tmp_path / "out"), "--jobs", "1"]
    iterations = ["--full-iterations", "2", "--cached-iterations", "3", "--passes", "1"]
    return [*options, *iterations, "--seeds", "1", "--full-seeds", "1", "--steps", "2"]


def test_a_tiny_version(evidence, args, tmp_path, capsys):
    assert evidence.main(args) == 0
    said = capsys.readouterr().out
    order = ["1/1 full softmax_ce, seed 1: AP", "RoI features, seed 1: done"]
    order += ["3/3 cached cosine_ce_s20, seed 1: AP", "Chosen: s = 20"]
    assert sorted(order, key=said.index) == order
    output = tmp_path / "out"
    assert json.loads((output / "choices.json").read_text())["scale"] == 20
    page = (output / "tables.md").read_text()
    for kind, method in (("full", "softmax_ce"), ("cached", "cosine_ce_s20")):
        run = output / kind / method / "seed1"
        assert (run / "model_final.pth").is_file()
        for dataset, title in (("digits_again", ""), ("digits_lt_val", "on the selection split")):
            results = json.loads((run / "inference" / dataset / "results.json").read_text())
            assert title in page and f"{results['metrics']['bbox']['AP']:.1f}" in page
    assert (output / "figures").is_dir()

    # Again: nothing is trained; other settings are not mixed in
    model = output / "cached/cosine_ce_s20/seed1/model_final.pth"
    written = model.stat().st_mtime_ns
    assert evidence.main(args) == 0
    assert model.stat().st_mtime_ns == written and "Step" not in capsys.readouterr().out
    args[args.index("--cached-iterations") + 1] = "4"
    with pytest.raises(SystemExit) as raised:
        evidence.main(args)
    assert raised.value.code == 2
    message = capsys.readouterr().err
    assert "cosine_ce_s20/seed1 was run with SOLVER." in message and message.count("\n") == 1


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


@pytest.mark.parametrize(
    "key", ["OUTPUT_DIR", "SEED", "SOLVER.MAX_ITER", "MODEL.WEIGHTS", "MODEL.ROI_HEADS.NUM_CLASSES"]
)
def test_options_that_it_sets_itself_are_refused(evidence, args, capsys, key):
    with pytest.raises(SystemExit) as raised:
        evidence.main([*args, "--", key, "7"])
    assert raised.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: Leave {key} out of the options after --: ")


def test_the_data_must_be_there(evidence, args, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    with pytest.raises(SystemExit):
        evidence.main([*args, "--", "DATASETS.TRAIN", "('digits_again',)"])
    assert "tools/prepare_meshes_lt.py make" in capsys.readouterr().err
