"""Weights that do not fit: refused when resumed or evaluated, warned about when fine-tuned."""

import logging
import resource
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from igam_d2.engine import Checkpointer
from igam_d2.errors import InputError, TransientError
from igam_d2.functional import margin_potentials, normalize_information
from igam_d2.modeling import CosineOutputLayers


def predictor(cfg, num_classes: int, loss: str = "IGAMLoss") -> CosineOutputLayers:
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = loss
    return CosineOutputLayers(cfg, ShapeSpec(channels=16))


class Counter:
    """Something that is saved with the model."""

    def state_dict(self):
        return {"count": 3}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.fixture
def saved(cfg, tmp_path):
    layers = predictor(cfg, 10)
    layers.set_information(torch.linspace(1, 2, 10))
    Checkpointer(layers, str(tmp_path), trainer=Counter()).save("model")
    return str(tmp_path / "model.pth")


def test_weights_that_fit_are_loaded(cfg, saved, tmp_path):
    layers, counter = predictor(cfg, 10), Counter()
    Checkpointer(layers, str(tmp_path), trainer=counter).resume_or_load("", resume=True)
    assert counter.count == 3
    torch.testing.assert_close(layers.information, torch.linspace(1, 2, 10))
    layers = predictor(cfg, 10)
    Checkpointer(layers, exact=True).load(saved)
    assert layers.cls_loss.potentials.isfinite().all()


def test_another_class_count_is_refused_when_evaluated_or_resumed(cfg, saved, tmp_path):
    layers = predictor(cfg, 7)
    for load in (
        lambda: Checkpointer(layers, exact=True).load(saved),
        lambda: Checkpointer(layers, str(tmp_path)).resume_or_load("", resume=True),
    ):
        with pytest.raises(InputError, match=r"cls_score.weight has shape \(11, 8\).* \(8, 8\)"):
            load()


def test_missing_parameters_are_refused_when_evaluated(cfg, saved, tmp_path):
    state = torch.load(saved, weights_only=True)["model"]
    del state["embedding.weight"]
    torch.save({"model": state}, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"embedding.weight is not in it"):
        Checkpointer(predictor(cfg, 10), exact=True).load(str(tmp_path / "part.pth"))


def test_of_the_buffers_only_those_of_the_loss_must_be_there(cfg, saved, tmp_path):
    state = torch.load(saved, weights_only=True)["model"]
    del state["information"]
    torch.save({"model": state}, tmp_path / "old.pth")
    Checkpointer(predictor(cfg, 10), exact=True).load(str(tmp_path / "old.pth"))
    del state["cls_loss.potentials"]
    torch.save({"model": state}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"cls_loss.potentials is not in it"):
        Checkpointer(predictor(cfg, 10), exact=True).load(str(tmp_path / "other.pth"))
    Checkpointer(predictor(cfg, 10)).load(str(tmp_path / "other.pth"), checkpointables=[])


WITH_BIAS = "a linear classifier with bias in roi_heads.0.cls_score, where"
COSINE = "a cosine classifier in roi_heads.0.cls_score, where"
LINEAR = "a linear classifier without bias in roi_heads.0.cls_score, where"


@pytest.mark.parametrize(
    "before, after, words",
    [
        ("SoftmaxCELoss", "CosineCELoss", f"{WITH_BIAS} CosineCELoss has a cosine classifier"),
        (
            "CosineCELoss",
            "SoftmaxCELoss",
            f"{COSINE} SoftmaxCELoss has a linear classifier with bias",
        ),
        (
            "SoftmaxCELoss",
            "VirtualSoftmaxLoss",
            f"{WITH_BIAS} VirtualSoftmaxLoss has a linear classifier without bias",
        ),
        ("VirtualSoftmaxLoss", "CosineCELoss", f"{LINEAR} CosineCELoss has a cosine classifier"),
        (
            "CosineCELoss",
            "VirtualSoftmaxLoss",
            f"{COSINE} VirtualSoftmaxLoss has a linear classifier without bias",
        ),
        (
            "VirtualSoftmaxLoss",
            "SoftmaxCELoss",
            f"{LINEAR} SoftmaxCELoss has a linear classifier with bias",
        ),
        (None, "CosineCELoss", f"{WITH_BIAS} CosineCELoss has a cosine classifier"),
    ],
)
def test_a_classifier_of_another_kind_is_not_taken_over(
    cfg, tmp_path, caplog, before, after, words
):
    cfg.MODEL.IGAM.EMBEDDING_DIM = 0  # as Detectron2's own, whose rows then have the same shape

    def model(loss: str | None, stages: int) -> nn.Module:
        if loss is None:
            transform = Box2BoxTransform(weights=(10, 10, 5, 5))
            layers = [
                FastRCNNOutputLayers(
                    ShapeSpec(channels=16), box2box_transform=transform, num_classes=10
                )
                for _ in range(stages)
            ]
        else:
            layers = [predictor(cfg, 10, loss) for _ in range(stages)]
        return nn.ModuleDict({"roi_heads": nn.ModuleList(layers)})

    source = model(before, 2)
    Checkpointer(source, str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    with pytest.raises(InputError) as info:
        Checkpointer(model(after, 2), exact=True).load(path)
    key = "ROI_HEADS.NAME" if before is None else "ROI_BOX_HEAD.CLS_LOSS.NAME"  # Detectron2's own
    assert f"{words} (1 more like it); set MODEL.{key}" in str(info.value)
    with pytest.raises(InputError, match="set MODEL"):
        Checkpointer(model(after, 2), str(tmp_path)).resume_or_load("", resume=True)

    target = model(after, 2)
    rows = target["roi_heads"][0].cls_score.weight.detach().clone()
    with caplog.at_level(logging.WARNING):
        Checkpointer(target).load(path, checkpointables=[])
    assert f"{words} (1 more like it); it starts untrained" in caplog.text
    assert torch.equal(target["roi_heads"][0].cls_score.weight, rows)
    assert torch.equal(
        target["roi_heads"][1].bbox_pred.weight, source["roi_heads"][1].bbox_pred.weight
    )
    # The same kind: nothing is said
    caplog.clear()
    if before is not None:
        with caplog.at_level(logging.WARNING):
            Checkpointer(model(before, 2)).load(path, checkpointables=[])
        assert "untrained" not in caplog.text


def test_fine_tuning_warns_and_goes_on(cfg, saved, caplog):
    with caplog.at_level(logging.WARNING):
        Checkpointer(predictor(cfg, 7)).load(saved, checkpointables=[])
    assert "(11, 8) there and (8, 8)" in caplog.text and "start untrained" in caplog.text


def test_no_weights_and_missing_files(cfg, tmp_path):
    layers = predictor(cfg, 10)
    with pytest.raises(InputError, match=r"MODEL.WEIGHTS PATH"):
        Checkpointer(layers, exact=True).load("")
    with pytest.raises(InputError, match=r"no checkpoint at .*nowhere"):
        Checkpointer(layers).load(str(tmp_path / "nowhere.pth"), checkpointables=[])


def test_disk_that_is_full_ends_in_a_sentence_and_keeps_what_is_there(cfg, tmp_path):
    checkpointer = Checkpointer(predictor(cfg, 10), str(tmp_path))
    checkpointer.save("model_0000001")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(TransientError, match=r"model_0000003.pth' could not be written"):
            checkpointer.save("model_0000003")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Checkpointer(predictor(cfg, 10), str(tmp_path)).get_checkpoint_file() == str(
        tmp_path / "model_0000001.pth"
    )
    assert not (tmp_path / "model_0000003.pth").exists()


@pytest.mark.parametrize("cut", ["model_final", "model_0000009"])
def test_the_last_checkpoint_that_is_whole_is_found(cfg, tmp_path, cut):
    checkpointer = Checkpointer(predictor(cfg, 10), str(tmp_path))
    assert not checkpointer.has_checkpoint()
    for name in ("model_0000009", "model_0000004", "model_0000014", cut):
        checkpointer.save(name)
    path = tmp_path / f"{cut}.pth"
    path.write_bytes(path.read_bytes()[:-200])
    expected = "model_0000014.pth" if cut == "model_final" else "model_0000004.pth"
    assert checkpointer.get_checkpoint_file() == str(tmp_path / expected)
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000014.pth")


def test_checkpoints_that_could_run_code_are_not_read(cfg, tmp_path):
    torch.save({"model": {}, "trainer": SimpleNamespace()}, tmp_path / "model.pth")
    with pytest.raises(InputError, match="more than tensors and plain values"):
        Checkpointer(predictor(cfg, 10)).load(str(tmp_path / "model.pth"))


def test_a_new_run_begins_with_a_loss_of_its_own(cfg, tmp_path):
    """What a loss has seen is of another training; in a run that is resumed it is kept."""
    cfg.DATASETS.TRAIN = ()
    source = predictor(cfg, 10, "SeesawLoss")
    source.cls_loss.class_count.fill_(7.0)
    source.information.fill_(3.0)
    wrapped = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"model": wrapped}, tmp_path / "model.pth")
    kept, fresh = predictor(cfg, 10, "SeesawLoss"), predictor(cfg, 10, "SeesawLoss")
    Checkpointer(kept, exact=True).load(str(tmp_path / "model.pth"))
    Checkpointer(fresh).load(str(tmp_path / "model.pth"), checkpointables=[])
    assert (kept.cls_loss.class_count == 7).all() and (fresh.cls_loss.class_count == 0).all()
    for layers in (kept, fresh):
        assert torch.equal(layers.cls_score.weight, source.cls_score.weight)
        assert (layers.information == 3).all()


def test_a_new_run_begins_with_the_margins_of_the_information_it_is_given(cfg, tmp_path):
    source = predictor(cfg, 10, "CosineCELoss")
    source.set_information(torch.linspace(4, 9, 10))
    torch.save({"model": source.state_dict()}, tmp_path / "model.pth")
    layers = predictor(cfg, 10, "IGAMLoss")
    Checkpointer(layers).load(str(tmp_path / "model.pth"), checkpointables=[])
    expected = margin_potentials(normalize_information(source.information, reading="ratio"))
    torch.testing.assert_close(layers.cls_loss.potentials, expected)


def test_groups_of_other_thresholds_do_not_fit(cfg, digits, tmp_path):
    cfg.DATASETS.TRAIN = ("digits_lt_train",)
    node = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.BAGSLoss
    Checkpointer(predictor(cfg, 10, "BAGSLoss"), str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    for thresholds in ((5,), (2, 3, 5, 8)):
        node.THRESHOLDS = thresholds
        layers = predictor(cfg, 10, "BAGSLoss")
        own = layers.cls_loss.group.clone()
        with pytest.raises(InputError, match=r"\(16, 8\) there and \(1[47], 8\) in this model"):
            Checkpointer(layers, exact=True).load(path)
        layers = predictor(cfg, 10, "BAGSLoss")
        Checkpointer(layers).load(path, checkpointables=[])
        assert torch.equal(layers.cls_loss.group, own)


def test_a_detector_without_embedding_is_told_how_to_load_it(cfg, tmp_path):
    own = FastRCNNOutputLayers(
        ShapeSpec(channels=16),
        box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
        num_classes=10,
    )
    cfg.MODEL.IGAM.EMBEDDING_DIM = 16
    layers = nn.ModuleDict({"box_predictor": predictor(cfg, 10, "SoftmaxCELoss")})
    state = {f"box_predictor.{key}": value for key, value in own.state_dict().items()}
    torch.save({"model": state}, tmp_path / "own.pth")
    with pytest.raises(InputError, match=r"embedding.weight is not in it .*EMBEDDING_DIM 0"):
        Checkpointer(layers, exact=True).load(str(tmp_path / "own.pth"))
    cfg.MODEL.IGAM.EMBEDDING_DIM = 0
    layers = nn.ModuleDict({"box_predictor": predictor(cfg, 10, "SoftmaxCELoss")})
    Checkpointer(layers, exact=True).load(str(tmp_path / "own.pth"))
    assert torch.equal(layers["box_predictor"].cls_score.weight, own.cls_score.weight)
