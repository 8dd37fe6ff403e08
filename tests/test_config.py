"""Configs: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest
import torch

from igam_d2.config import build_cls_loss, load_config
from igam_d2.errors import InputError
from igam_d2.losses import CLS_LOSS_REGISTRY, IGAMLoss

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
LOSS = "MODEL.ROI_BOX_HEAD.CLS_LOSS"


def refused(opts: list[str], file: str = "") -> str:
    with pytest.raises(InputError) as info:
        load_config(str(file), opts)
    return str(info.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_of_the_project_loads(path):
    assert load_config(str(path), []).VERSION == 2


def test_loss_is_built_from_its_node_and_the_context():
    cfg = load_config("", [f"{LOSS}.IGAMLoss.SCALE", "20.0", "MODEL.IGAM.NORMALIZATION", "ratio"])
    loss = build_cls_loss(cfg)
    assert isinstance(loss, IGAMLoss) and (loss.scale, loss.normalization) == (20.0, "ratio")
    assert loss.potentials.shape == (80,)
    nodes = set(cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS) - {"NAME"}
    assert nodes == {name for name, _ in CLS_LOSS_REGISTRY}


def test_device_falls_back_to_the_cpu_with_a_line_that_says_so(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_config("", []).MODEL.DEVICE == "cpu"
    assert "running on the CPU" in caplog.text


@pytest.mark.parametrize(
    "opts, parts",
    [
        (["MODEL.IGAM.QUEUE_LENGHT", "5"], ["no key MODEL.IGAM.QUEUE_LENGHT", "QUEUE_LENGTH"]),
        (["MODEL.IGAM.QUEUE_LENGTH", "-5"], ["QUEUE_LENGTH is -5", "at least 1"]),
        (["MODEL.IGAM.QUEUE_LENGTH", "many"], ["QUEUE_LENGTH takes a value of type int", "many"]),
        (["MODEL.IGAM.EMBEDDING_DIM", "-1"], ["EMBEDDING_DIM is -1", "at least 0"]),
        (["MODEL.IGAM.REFRESH_PERIOD", "-1"], ["REFRESH_PERIOD is -1", "at least 0"]),
        (["MODEL.IGAM.SHRINKAGE", "osa"], ["'osa'", "did you mean 'oas'", "none, floor, oas"]),
        (["MODEL.IGAM.NORMALIZATION", "median"], ["'median'", "paper, mean_sqrt, mean, ratio"]),
        ([f"{LOSS}.IGAMLoss.SCALE", "0.0"], ["CLS_LOSS.IGAMLoss: scale must be positive"]),
        ([f"{LOSS}.IGAMLoss.SCALE", "20"], ["IGAMLoss.SCALE", "float", "write 20.0"]),
        ([f"{LOSS}.IGAMLoss.MARGIN_SIGN", "3"], ["margin_sign must be 1 or -1"]),
        ([f"{LOSS}.NAME", "IGAM"], ["'IGAM'", "'IGAMLoss'", "CosineCELoss"]),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "0"], ["NUM_CLASSES is 0"]),
        (
            ["MODEL.ROI_HEADS.NAME", "IGAMROIHeads", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"],
            ["USE_SIGMOID_CE", "no effect"],
        ),
    ],
)
def test_bad_values_get_one_sentence(opts, parts):
    message = refused(opts)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_bad_files_get_one_sentence(tmp_path):
    assert "nowhere.yaml' does not exist" in refused([], tmp_path / "nowhere.yaml")
    file = tmp_path / "c.yaml"
    for text, part in (
        ("MODEL: {IGAM: {QUEUE: 3}}", "no key MODEL.IGAM.QUEUE"),
        ("_BASE_: missing.yaml", "missing.yaml"),
        ("MODEL: {IGAM: [", "not plain YAML"),
        ("just words", "mapping"),
    ):
        file.write_text(text)
        message = refused([], file)
        assert part in message and "\n" not in message and "c.yaml" in message, message


def test_yaml_cannot_run_code(tmp_path):
    mark, file = tmp_path / "ran", tmp_path / "c.yaml"
    file.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {mark}']")
    assert "not plain YAML" in refused([], file)
    base = tmp_path / "child.yaml"
    base.write_text("_BASE_: c.yaml")
    assert "not plain YAML" in refused([], base)
    assert not mark.exists()
