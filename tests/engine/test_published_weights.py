"""Swin's ImageNet weights, in files with the names and shapes of the published ones; and URLs."""

import logging
from http.client import RemoteDisconnected
from unittest.mock import Mock
from urllib.error import HTTPError, URLError

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_detr import tiny_detr
from torch import nn

from igam_d2.engine import Checkpointer
from igam_d2.errors import InputError, TransientError
from igam_d2.modeling.backbone import SwinTransformer

SWIN_T = {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)}


def shapes_of_published(width, depths, heads, window=7) -> dict[str, tuple[int, ...]]:
    """As models/swin_transformer.py of microsoft/Swin-Transformer makes them at 224 px."""
    shapes = {"patch_embed.proj.weight": (width, 3, 4, 4), "patch_embed.proj.bias": (width,)}
    norms = {"patch_embed.norm": width, "norm": width * 8}
    for i, depth in enumerate(depths):
        c, side = width * 2**i, 56 // 2**i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            norms |= {f"{block}.norm1": c, f"{block}.norm2": c}
            layers = {"attn.qkv": (3 * c, c), "attn.proj": (c, c), "mlp.fc1": (4 * c, c)}
            for name, shape in (layers | {"mlp.fc2": (c, 4 * c)}).items():
                shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
            shapes[f"{block}.attn.relative_position_bias_table"] = (
                (2 * window - 1) ** 2,
                heads[i],
            )
            shapes[f"{block}.attn.relative_position_index"] = (window**2, window**2)
            if j % 2 and side > window:
                shapes[f"{block}.attn_mask"] = ((side // window) ** 2, window**2, window**2)
        if i < 3:
            shapes[f"layers.{i}.downsample.reduction.weight"] = (2 * c, 4 * c)
            norms[f"layers.{i}.downsample.norm"] = 4 * c
    for name, c in norms.items():
        shapes |= {f"{name}.weight": (c,), f"{name}.bias": (c,)}
    return shapes | {"head.weight": (1000, width * 8), "head.bias": (1000,)}


def published(**sizes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.zeros(shape, dtype=torch.int64)
        if name.endswith("index")
        else torch.randn(shape, generator=generator)
        for name, shape in shapes_of_published(**sizes).items()
    }


@pytest.fixture
def swin(cfg):
    """The tiny detector over Swin-T with FPN."""
    cfg.merge_from_other_cfg(
        CfgNode(
            CfgNode.load_cfg("""
MODEL:
  BACKBONE: {NAME: build_swin_fpn_backbone}
  SWIN: {DROP_PATH_RATE: 0.0}
  FPN: {IN_FEATURES: [p0, p1, p2, p3]}
""")
        )
    )
    return cfg


def load(cfg, tmp_path, state):
    torch.save({"model": state}, tmp_path / "swin.pth")
    torch.manual_seed(1)
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Checkpointer(model).resume_or_load(str(tmp_path / "swin.pth"), resume=False)
    return model.state_dict(), before


def test_swin_t_goes_into_the_pyramid(swin, tmp_path, caplog):
    state = published(**SWIN_T)
    assert len(state) == 181 + 4 + 5  # with head and norm, and the masks
    with caplog.at_level(logging.INFO):
        after, before = load(swin, tmp_path, state)
    prefix, new = "backbone.bottom_up.", set()
    for name, value in after.items():
        source = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if source in state:
            torch.testing.assert_close(value, state[source], msg=name)
        else:
            torch.testing.assert_close(value, before[name], msg=name, equal_nan=True)
            new.add(source)
    assert new == {"", *(f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias"))}
    assert "181 of 190 go into backbone.bottom_up" in caplog.text
    unexpected = [m for m in caplog.messages if "contains keys that are not used" in m]
    assert not unexpected and "start untrained" not in caplog.text.replace("norms start", "")


def test_stages_that_are_not_there_are_left_out(swin, tmp_path, caplog):
    swin.MODEL.META_ARCHITECTURE, swin.MODEL.BACKBONE.NAME = (
        "ProposalNetwork",
        "build_swin_backbone",
    )
    swin.MODEL.SWIN.OUT_FEATURES = swin.MODEL.RPN.IN_FEATURES = ["p2"]
    swin.MODEL.SWIN.EMBED_DIM, swin.MODEL.SWIN.DEPTHS = 12, [1, 2, 2, 1]
    state = published(width=12, depths=(1, 2, 2, 1), heads=SWIN_T["heads"])
    after, _ = load(swin, tmp_path, state)
    name = "layers.2.blocks.1.mlp.fc2.weight"
    torch.testing.assert_close(after[f"backbone.{name}"], state[name])
    assert not [m for m in caplog.messages if "not used by the model" in m]


def test_swin_t_goes_into_detr(cfg, tmp_path, caplog):
    names = ["MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.SWIN.OUT_FEATURES", ["p3"]]
    names += ["MODEL.DETR.IN_FEATURE", "p3", "MODEL.SWIN.DROP_PATH_RATE", 0.0]
    state = published(**SWIN_T)
    with caplog.at_level(logging.INFO):
        after, before = load(tiny_detr(cfg, *names), tmp_path, state)
    own = {name.removeprefix("backbone."): v for name, v in after.items() if "backbone." in name}
    assert own.keys() - state.keys() == {"norm3.weight", "norm3.bias"} and len(own) == 181 + 2
    for name, value in own.items():
        expected = state[name] if name in state else before[f"backbone.{name}"]
        torch.testing.assert_close(value, expected, msg=name)
    assert "RGB images normalised as in torchvision: 181 of 190 go into backbone," in caplog.text
    assert not [m for m in caplog.messages if "not used by the model" in m]


@pytest.fixture(scope="module")
def swin_t():
    return SwinTransformer(drop_path_rate=0.0)


@pytest.mark.parametrize(
    "other, needed, has",
    [
        (
            {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},  # Swin-B
            "EMBED_DIM 128, DEPTHS [2, 2, 18, 2], NUM_HEADS [4, 8, 16, 32]",
            "EMBED_DIM 96, DEPTHS [2, 2, 6, 2], NUM_HEADS [3, 6, 12, 24]",
        ),
        ({**SWIN_T, "depths": (2, 2, 18, 2)}, "DEPTHS [2, 2, 18, 2]", "DEPTHS [2, 2, 6, 2]"),
        ({**SWIN_T, "window": 12}, "WINDOW_SIZE 12", "WINDOW_SIZE 7"),
    ],
)
def test_another_swin_is_refused_in_a_sentence(swin_t, tmp_path, other, needed, has):
    state = {
        name: torch.zeros(shape)
        for name, shape in shapes_of_published(**other).items()
        if name == "patch_embed.proj.weight" or name.endswith("bias_table")
    }  # by which it is told
    torch.save({"model": state}, tmp_path / "swin.pth")
    for exact in (False, True):
        with pytest.raises(InputError) as info:
            Checkpointer(swin_t, exact=exact).load(str(tmp_path / "swin.pth"), [])
        message = str(info.value)
        assert f"MODEL.SWIN to theirs, {needed} (it has {has})" in message
        assert "swin.pth' do not fit" in message and message.endswith(".") and "\n" not in message


def test_a_model_without_a_swin_is_refused_too(tmp_path):
    torch.save({"model": published(width=8, depths=(1,), heads=(1,))}, tmp_path / "swin.pth")
    with pytest.raises(InputError, match=r"those of a Swin, .*set MODEL.BACKBONE.NAME to build"):
        Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / "swin.pth"), [])


def test_weights_of_a_run_are_left_alone(swin, tmp_path):
    swin.MODEL.SWIN.EMBED_DIM, swin.MODEL.SWIN.DEPTHS = 12, [1, 1, 1, 1]
    own = build_model(swin).state_dict()
    after, _ = load(swin, tmp_path, own)
    for name, value in own.items():
        torch.testing.assert_close(after[name], value, equal_nan=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "error, reason",
    [
        (URLError(TimeoutError(110, "Connection timed out")), "Connection timed out"),
        (HTTPError("", 503, "Service Unavailable", {}, None), "HTTP Error 503: Service Unavail"),
        (RemoteDisconnected("Remote end closed connection"), "Remote end closed connection"),
        (None, ""),  # as it comes, with a network or without one
    ],
)
@pytest.mark.parametrize("url", ["https://nonexistent.invalid/x.pth", "detectron2://no/x.pkl"])
def test_a_download_that_fails_ends_in_a_sentence(cache, monkeypatch, url, error, reason):
    if error is not None:
        monkeypatch.setattr("urllib.request.urlretrieve", Mock(side_effect=error))
    elif url.startswith("detectron2"):
        return  # would ask Detectron2's server
    with pytest.raises(TransientError) as info:
        Checkpointer(nn.Linear(2, 1)).load(url, checkpointables=[])
    message = str(info.value)
    assert message.startswith(f"The weights {url!r} could not be downloaded ({reason}")
    assert message.endswith("download it and name the file in MODEL.WEIGHTS.")
    assert "()" not in message and "\n" not in message and "urlopen" not in message


def test_weights_are_downloaded_once(cache, monkeypatch):
    """Also with Detectron2's query behind the URL, which is no part of the file's name."""

    def retrieve(url, filename, **kwargs):
        asked.append(url)
        torch.save({"weight": torch.ones(1, 2), "bias": torch.ones(1)}, filename)
        return filename, None

    asked = []
    monkeypatch.setattr("urllib.request.urlretrieve", retrieve)
    for query in ("", "?matching_heuristics=True"):
        layer = nn.Linear(2, 1)
        Checkpointer(layer).load(f"https://nonexistent.invalid/a/x.pth{query}", [])
        assert (layer.weight == 1).all()
    assert asked == ["https://nonexistent.invalid/a/x.pth"] and (cache / "a/x.pth").is_file()


@pytest.mark.parametrize("name", ["file://{path}", "s3x://bucket/x.pth", "https://[x.pth"])
def test_urls_that_are_not_read_are_refused(tmp_path, name):
    """A file's URL too, which iopath does not read."""
    path = tmp_path / "x.pth"
    torch.save(nn.Linear(2, 1).state_dict(), path)
    url = name.format(path=path)
    with pytest.raises(InputError) as info:
        Checkpointer(nn.Linear(2, 1)).load(url, checkpointables=[])
    message = str(info.value)
    assert repr(url) in message and "must be the path of a file, or a URL with https:" in message
