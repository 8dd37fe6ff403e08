"""DETR's positions and layers against loops over rows, heads and keys."""

import math

import pytest
import torch

from igam_d2.modeling.detr.position import padding_mask, sine_positions
from igam_d2.modeling.detr.transformer import DecoderLayer, EncoderLayer


def test_positions_are_sines_of_rows_then_columns():
    sizes, height, width, dim = [(3, 5), (4, 2)], 4, 5, 8
    position = sine_positions(sizes, height, width, dim, device=torch.device("cpu"))
    position = position.view(2, height, width, dim)
    for image, (rows, columns) in enumerate(sizes):
        for y in range(rows):
            for x in range(columns):
                for start, place, end in ((0, y, rows), (dim // 2, x, columns)):
                    for i in range(dim // 2):
                        angle = 2 * math.pi * (place + 1) / end / 10000 ** (2 * (i // 2) / 4)
                        expected = math.cos(angle) if i % 2 else math.sin(angle)
                        got = position[image, y, x, start + i].item()
                        assert got == pytest.approx(expected, abs=1e-5)


def test_padding_mask_and_none_without_padding():
    mask = padding_mask([(2, 3), (1, 4)], 2, 4, device=torch.device("cpu"))
    assert mask.int().tolist() == [[0, 0, 0, 1] * 2, [0, 0, 0, 0, 1, 1, 1, 1]]
    assert padding_mask([(2, 4), (2, 4)], 2, 4, device=torch.device("cpu")) is None


def attention(module, queries, keys, values, hidden=()):
    """Of one image, row after row and head after head; `hidden` keys are not attended to."""
    dim, heads = module.embed_dim, module.num_heads
    wq, wk, wv = module.in_proj_weight.split(dim)
    bq, bk, bv = module.in_proj_bias.split(dim)
    rows = []
    for query in queries:
        parts = []
        for h in range(heads):
            own = slice(h * dim // heads, (h + 1) * dim // heads)
            q = (wq @ query + bq)[own]
            seen = [j for j in range(len(keys)) if j not in hidden]
            scores = [q @ (wk @ keys[j] + bk)[own] / math.sqrt(dim // heads) for j in seen]
            weights = torch.stack(scores).softmax(0)
            parts.append(
                sum(w * (wv @ values[j] + bv)[own] for w, j in zip(weights, seen, strict=True))
            )
        rows.append(module.out_proj.weight @ torch.cat(parts) + module.out_proj.bias)
    return torch.stack(rows)


def norm(module, x):
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * module.weight + module.bias


def feed_forward(layer, x):
    hidden = (x @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
    return hidden @ layer.linear2.weight.T + layer.linear2.bias


@pytest.fixture
def layers():
    sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "batch_first": True}
    torch.manual_seed(0)
    pair = EncoderLayer(**sizes).double(), DecoderLayer(**sizes).double()
    for layer in pair:
        for parameter in layer.eval().parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return pair


def test_layers_equal_the_loops(layers):
    encoder, decoder = layers
    cells, position = torch.randn(2, 2, 5, 8, dtype=torch.float64)
    x, query = torch.randn(2, 2, 3, 8, dtype=torch.float64)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        got = encoder(cells, position, padding)
        for i, hidden in enumerate(((), (3, 4))):
            placed = cells[i] + position[i]
            attended = attention(encoder.self_attn, placed, placed, cells[i], hidden)
            expected = norm(encoder.norm1, cells[i] + attended)
            expected = norm(encoder.norm2, expected + feed_forward(encoder, expected))
            torch.testing.assert_close(got[i], expected)

        got = decoder(x, query, cells, cells + position, padding)
        for i, hidden in enumerate(((), (3, 4))):
            placed = x[i] + query[i]
            expected = norm(
                decoder.norm1, x[i] + attention(decoder.self_attn, placed, placed, x[i])
            )
            keys = cells[i] + position[i]
            attended = attention(
                decoder.multihead_attn, expected + query[i], keys, cells[i], hidden
            )
            expected = norm(decoder.norm2, expected + attended)
            expected = norm(decoder.norm3, expected + feed_forward(decoder, expected))
            torch.testing.assert_close(got[i], expected)
