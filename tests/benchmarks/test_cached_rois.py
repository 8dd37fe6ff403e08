"""Second stages on cached RoIs, beside the whole detector that these are of."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from igam_d2.data import CheckedMapper, load_training_set
from igam_d2.engine import Checkpointer, Trainer
from igam_d2.errors import InputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PASSES = 2


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    own = {path.stem for path in BENCHMARKS.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the first test that asks for it leaves the common detector and its cache."""
    return tmp_path_factory.mktemp("cached")


@pytest.fixture
def common(cfg, digits, folder, tmp_path):
    """The config; `folder` has the weights of its detector, model_final.pth, and their cache."""
    from cached_rois.write import write_cache

    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_lt_train",), ("digits_lt_val",)
    cfg.MODEL.PIXEL_STD = [57.0, 57.0, 57.0]
    cfg.MODEL.IGAM.REFRESH_PERIOD = 3
    cfg.OUTPUT_DIR = str(tmp_path)
    weights = folder / "model_final.pth"
    if not (folder / "cache").exists():
        torch.manual_seed(0)
        model = build_model(cfg)
        predictor = model.roi_heads.box_predictor
        predictor.bbox_pred.weight.data.normal_(std=0.02)
        predictor.set_information(torch.linspace(1, 9, 10))
        Checkpointer(model, str(folder)).save("model_final")
        first = cfg.clone()
        first.MODEL.WEIGHTS = str(weights)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        write_cache(first, folder / "cache", passes=PASSES, seed=3)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()
    return cfg


@pytest.fixture
def cache(common, folder):
    from cached_rois.cache import RoICache

    return RoICache.load(folder / "cache", common)


def both(cfg, cache, folder):
    """The whole detector, and the second stage on the cache with its weights."""
    from cached_rois.detector import cached_trainer

    models = build_model(cfg), cached_trainer(cache).build_model(cfg)
    for model in models:
        Checkpointer(model, exact=True).load(str(folder / "model_final.pth"))
    return models


def test_what_is_in_the_folder(common, cache, folder):
    assert {path.name for path in folder.iterdir() if path.name[0] == "."} == set()
    assert len(cache.train) == PASSES and len(cache.test["digits_lt_val"]) == 12
    images = [split[1] for split in cache.train]
    for image in images:
        rois, truth = image["proposals"], image["instances"]
        assert len(rois) == len(image["roi_features"]) == 16
        assert image["roi_features"].dtype == torch.float16
        assert image["roi_features"].shape[1] == 8 * 4 * 4
        assert set(truth.gt_classes.tolist()) <= {*rois.gt_classes.tolist()} <= {*range(11)}
    boxes = [image["proposals"].proposal_boxes.tensor for image in images]
    assert not torch.equal(*boxes)  # each pass has RoIs of its own
    size = sum(path.stat().st_size for path in (folder / "cache").glob("*.npy"))
    assert size - 3 * 128 == 2 * 128 * (PASSES * 24 * 16 + 12 * 20)


def test_detections_are_those_of_the_whole_detector(common, cache, folder):
    from cached_rois.detector import cached_trainer

    whole, cached = (model.eval() for model in both(common, cache, folder))
    loaders = (
        trainer.build_test_loader(common, "digits_lt_val")
        for trainer in (Trainer, cached_trainer(cache))
    )
    for (image,), (record,) in zip(*loaders, strict=True):
        assert image["image_id"] == record["image_id"]
        found = detect(cached, record)
        exact = detect(whole, image)
        assert found.image_size == exact.image_size and len(found) == len(exact) > 20
        torch.testing.assert_close(found.scores, exact.scores, rtol=0, atol=2e-3)
        # Rounding alone may decide which of two that overlap is left: the rest with as much of it
        hook = whole.roi_heads.box_pooler.register_forward_hook(
            lambda *args: args[2].half().float()
        )
        rounded = detect(whole, image)
        hook.remove()
        torch.testing.assert_close(found.scores, rounded.scores, rtol=0, atol=1e-3)
        boxes = [x.pred_boxes.tensor for x in (found, rounded)]
        same = (boxes[0] - boxes[1]).abs().amax(dim=1) < 0.02
        same &= found.pred_classes == rounded.pred_classes
        assert same.float().mean() > 0.95  # the others have changed places


def detect(model, record):
    with torch.no_grad():
        return model([record])[0]["instances"]


def test_losses_and_gradients_are_those_of_the_whole_detector(common, cache, folder):
    from cached_rois.detector import CachedMapper

    whole, cached = both(common, cache, folder)
    whole.eval()
    whole.roi_heads.train()
    records = load_training_set(common)[:4]
    batch = [CachedMapper(cache.train[:1])(record) for record in records]
    images = whole.preprocess_image(list(map(CheckedMapper(common, is_train=True), records)))
    with EventStorage():
        features = whole.backbone(images.tensor)
        proposals, truths = (
            [record[key] for record in batch] for key in ("proposals", "instances")
        )
        whole.roi_heads.box_predictor.match_instances(proposals, truths)
        expected = whole.roi_heads._forward_box(features, proposals)
        losses = cached.train()(batch)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-3, atol=1e-5)
    sum(expected.values()).backward(), sum(losses.values()).backward()
    named = dict(whole.named_parameters())
    for name, parameter in cached.named_parameters():
        scale = named[name].grad.abs().max()
        difference = (parameter.grad - named[name].grad).abs().max()
        assert scale > 0 and difference < 3e-3 * scale, name
    for a, b in zip(
        *(model.roi_heads.box_predictor.take_instances() for model in (whole, cached)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-2 * a.abs().max().item())


def test_command_trains_and_resumes_as_an_uninterrupted_run(common, digits, folder, tmp_path):
    from train_cached import main

    common.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    common.DATALOADER.REPEAT_THRESHOLD = 0.3
    (tmp_path / "tiny.yaml").write_text(common.dump())
    made = tmp_path / "made"
    start = ["--config-file", str(tmp_path / "tiny.yaml")]
    weights = ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
    main(["--cache", str(made), "--write-cache", "2", *start, *weights, "SEED", "3"])
    for path in (folder / "cache").iterdir():  # the same seed, the same bytes
        if path.suffix == ".npy":
            assert path.read_bytes() == (made / path.name).read_bytes()
    assert json.loads((made / "cache.json").read_text())["seed"] == 3

    def train(*args):
        main(["--cache", str(made), *args])
        state = torch.load(output / "model_final.pth", weights_only=True)
        return state["model"], json.loads(
            (output / "inference/digits_lt_val/results.json").read_text()
        )

    output = tmp_path / "run"
    start += ["OUTPUT_DIR", str(output)]
    whole, results = train(*start)
    assert set(whole) == {
        key for key in torch.load(weights[1], weights_only=True)["model"] if key[:9] == "roi_heads"
    }
    lines = (output / "information.jsonl").read_text()
    assert len(lines.splitlines()) == 2
    (output / "model_final.pth").unlink()
    (output / "last_checkpoint").write_text("model_0000003.pth")
    seed_all_rng(99)
    again, results_again = train("--resume", *start)
    assert results_again["metrics"] == results["metrics"]
    assert (output / "information.jsonl").read_text() == lines
    for key, value in again.items():
        torch.testing.assert_close(value, whole[key], rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7], "POOLER_RESOLUTION 4, but the config has 7"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", 11], "NUM_CLASSES 10, but the config has 11"),
        (["DATASETS.TRAIN", ("digits_lt_val",)], "DATASETS.TRAIN ['digits_lt_train'], but"),
        (["DATASETS.TEST", ("digits_lt_train",)], "has no RoIs of 'digits_lt_train' (DATASETS.TE"),
        (["MODEL.ROI_HEADS.NAME", "IGAMCascadeROIHeads"], "needs 'IGAMROIHeads'."),
        (["VIS_PERIOD", 10], "VIS_PERIOD is 10"),
    ],
)
def test_a_cache_of_something_else(common, folder, opts, sentence):
    from cached_rois.cache import RoICache

    common.merge_from_list(opts)
    with pytest.raises(InputError) as error:
        RoICache.load(folder / "cache", common)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_annotations_that_have_changed(common, folder, monkeypatch, tmp_path):
    from cached_rois.cache import RoICache

    other = tmp_path / "other.json"
    other.write_text(Path(MetadataCatalog.get("digits_lt_val").json_file).read_text() + " ")
    # Past its own attributes, which cannot be set to another value
    monkeypatch.setitem(vars(MetadataCatalog.get("digits_lt_val")), "json_file", str(other))
    with pytest.raises(InputError, match="annotations of 'digits_lt_val' are not those"):
        RoICache.load(folder / "cache", common)


def test_no_cache_and_no_weights(common, folder, tmp_path, capsys):
    from cached_rois.write import write_cache
    from train_cached import main

    (tmp_path / "tiny.yaml").write_text(common.dump())
    start = ["--config-file", str(tmp_path / "tiny.yaml")]

    def said(*args) -> str:
        with pytest.raises(SystemExit) as exit:
            main([*args, *start])
        assert exit.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    nowhere = str(tmp_path / "nowhere")
    assert said("--cache", nowhere).endswith("make it with --write-cache.")
    assert said("--cache", nowhere, "--write-cache", "0").endswith("must be at least 1.")
    assert "No weights" in said("--cache", nowhere, "--write-cache", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]  # nothing is left
    assert "in one process" in said("--cache", nowhere, "--write-cache", "1", "--resume")
    with pytest.raises(InputError, match="is there already"):
        write_cache(common, folder / "cache", passes=1, seed=0)


def test_images_of_other_sizes_and_features_beyond_float16(tmp_path):
    from cached_rois.write import IMAGES_AT_ONCE, Rows, batches

    sizes = [4] * (IMAGES_AT_ONCE + 1) + [5, 4]
    found = list(batches({"image": torch.empty(3, size, size), "size": size} for size in sizes))
    assert [len(batch) for batch in found] == [IMAGES_AT_ONCE, 1, 1, 1]
    rows = torch.arange(12.0).view(4, 3)
    with Rows(tmp_path / "x.npy") as file:
        file.append(rows[:1])
        file.append(rows[1:])
    read = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert read.dtype == np.float16 and (read == rows.numpy()).all()
    with pytest.raises(InputError, match="float16"), Rows(tmp_path / "y.npy") as file:
        file.append(torch.tensor([[1e5]]))
