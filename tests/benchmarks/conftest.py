"""The evidence benchmark with a tiny detector on the small Digits-LT."""

import sys
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_evidence import SPLITS, differing

from igam_d2.config import add_igam_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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
