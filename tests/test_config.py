"""Configs: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest
import torch

from igam_d2.config import load_config
from igam_d2.errors import InputError
from igam_d2.loss_config import make_cls_loss
from igam_d2.losses import CLS_LOSS_REGISTRY, IGAMLoss

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
CONFIGS = [path for path in CONFIGS if path.parent.name != "common"]  # parts of others
LOSS = "MODEL.ROI_BOX_HEAD.CLS_LOSS"
CALIBRATION = "TEST.CALIBRATION"
SOFTMAX = ["MODEL.ROI_HEADS.NAME", "IGAMROIHeads", f"{LOSS}.NAME", "SoftmaxCELoss"]
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "IGAMCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
]


def refused(opts: list[str], file: str = "") -> str:
    with pytest.raises(InputError) as info:
        load_config(str(file), opts)
    return str(info.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_of_the_project_loads(path):
    assert load_config(str(path), []).VERSION == 2


def test_loss_is_built_from_its_node_and_the_context():
    cfg = load_config("", [f"{LOSS}.IGAMLoss.SCALE", "20.0", "MODEL.IGAM.NORMALIZATION", "ratio"])
    loss = make_cls_loss(cfg)
    assert isinstance(loss, IGAMLoss) and (loss.scale, loss.normalization) == (20.0, "ratio")
    assert loss.potentials.shape == (80,)
    nodes = set(cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS) - {"NAME"}
    assert nodes == {name for name, _ in CLS_LOSS_REGISTRY}


def test_calibration_and_cascade_of_what_they_are_for():
    for opts in (
        [*SOFTMAX, f"{CALIBRATION}.TAU", "1.0", f"{CALIBRATION}.NORCAL_GAMMA", "0.6"],
        [*SOFTMAX, f"{LOSS}.NAME", "CosineCELoss", f"{CALIBRATION}.NORCAL_GAMMA", "0.6"],
        CASCADE,
    ):
        load_config("", opts)


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
        (
            [*CASCADE, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "False"],
            ["CLS_AGNOSTIC_BBOX_REG is False", "IGAMCascadeROIHeads", "set it to True"],
        ),
        (
            [*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.6, 0.7, 0.8)"],
            ["IOUS begins with 0.6", "IOU_THRESHOLDS with 0.5", "must be the same"],
        ),
        (
            [*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.5, 0.6)"],
            ["2 IOUS and 3 BBOX_REG_WEIGHTS", "every stage"],
        ),
        ([*SOFTMAX, f"{CALIBRATION}.TAU", "-1.0"], ["TAU is -1.0", "at least 0"]),
        (
            [*SOFTMAX, f"{CALIBRATION}.NORCAL_GAMMA", "-0.6"],
            ["NORCAL_GAMMA is -0.6", "at least 0"],
        ),
        (
            [*SOFTMAX, "MODEL.ROI_HEADS.NAME", "StandardROIHeads", f"{CALIBRATION}.TAU", "1.0"],
            ["TAU is 1.0", "no effect in StandardROIHeads", "IGAMCascadeROIHeads"],
        ),
        (
            [*SOFTMAX, f"{LOSS}.NAME", "CosineCELoss", f"{CALIBRATION}.TAU", "1.0"],
            ["TAU is 1.0", "CosineCELoss has rows of length one"],
        ),
        *(
            (
                [*SOFTMAX, f"{LOSS}.NAME", "FocalLoss", f"{CALIBRATION}.{key}", "1.0"],
                [f"{key} is 1.0", "FocalLoss do not sum to one"],
            )
            for key in ("TAU", "NORCAL_GAMMA")
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
        (
            "DATASETS: {REGISTER: {name: a, json: b, image_root: c, format: coco}}",
            "DATASETS.REGISTER must be a list: begin each entry with '- ', as - {name: tools_train",
        ),
    ):
        file.write_text(text)
        message = refused([], file)
        assert part in message and "\n" not in message and "c.yaml" in message, message


def test_a_name_in_other_letters_is_recognized():
    entry = "[{'name': 'a', 'json': 'b', 'image_root': 'c', 'format': 'COCO'}]"
    assert "is 'COCO' (did you mean 'coco'?)" in refused(["DATASETS.REGISTER", entry])
    assert "did you mean 'SOLVER.BASE_LR'?" in refused(["solver.base_lr", "1.0"])


def test_yaml_cannot_run_code(tmp_path):
    mark, file = tmp_path / "ran", tmp_path / "c.yaml"
    file.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {mark}']")
    assert "not plain YAML" in refused([], file)
    base = tmp_path / "child.yaml"
    base.write_text("_BASE_: c.yaml")
    assert "not plain YAML" in refused([], base)
    assert not mark.exists()
