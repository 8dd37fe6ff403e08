"""Every loss against its loop: values, gradients, states and probabilities in float64."""

import pytest
import torch
from loss_cases import (
    CASES,
    FLOAT32_CONSTANTS,
    LOSSES,
    STATEFUL,
    all_cases,
    assert_same,
    assert_state,
    batch,
    leaves,
    pair,
    total,
)
from reference_losses import number

pytestmark = pytest.mark.usefixtures("float64")
BATCHES = {  # rows and what is in them
    "mixed": (12, "mixed"),
    "background": (5, "background"),
    "empty": (0, "mixed"),
    "ties": (12, "ties"),
}


def tolerance(name: str) -> float:
    return 2e-7 if name in FLOAT32_CONSTANTS else 1e-9


def test_every_loss_has_a_reference():
    assert {name for name, _ in CASES} == set(LOSSES)
    assert {name for name in STATEFUL} == {
        name for name, constants in CASES if pair(name, **constants)[1].state
    }


@all_cases
@pytest.mark.parametrize("k", [5, 1])
def test_values_gradients_and_states_of_three_steps(name, constants, k):
    loss, loop = pair(name, k, **constants)
    for seed in range(3):
        data = batch(loss, seed=seed)
        assert_same(total(loss(**data)), loop(**data), leaves(data, loss), tolerance(name))
        assert_state(loss, loop)


@all_cases
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients_of_odd_batches(name, constants, kind, weighted):
    loss, loop = pair(name, **constants)
    first, rows = batch(loss, seed=7), BATCHES[kind][0]
    total(loss(**first)), loop(**first)
    data = batch(loss, rows, seed=8, kind=BATCHES[kind][1])
    if weighted:
        data["sample_weight"] = torch.linspace(0.1, 2, rows, dtype=torch.float64)
    value = total(loss(**data))
    assert_same(value, loop(**data), leaves(data, loss), tolerance(name))
    if rows == 0:
        assert value == 0
    assert_state(loss, loop)


@all_cases
@pytest.mark.parametrize("k", [5, 1])
def test_probabilities(name, constants, k):
    loss, loop = pair(name, k, **constants)
    data = batch(loss)
    scores, embeddings = data["scores"].detach(), data["embeddings"].detach()
    expected = [loop.probs(list(z), x) for z, x in zip(scores, embeddings, strict=True)]
    expected = torch.tensor([[number(p) for p in row] for row in expected], dtype=torch.float64)
    probs = loss.predict_probs(scores, embeddings=embeddings)
    torch.testing.assert_close(probs, expected, rtol=1e-9, atol=1e-9)
    if loss.sums_to_one:
        torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))
