"""What the losses count: over processes, when resumed, and not while evaluating."""

import copy

import pytest
import torch
import torch.multiprocessing as mp
from loss_cases import LOSSES, STATEFUL, all_cases, batch, build, total
from loss_processes import STEPS, train, train_a_share


def test_two_processes_count_as_one(tmp_path):
    mp.spawn(train_a_share, args=(str(tmp_path), STATEFUL), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    for name in STATEFUL:
        expected, (state, calls) = train(name).state_dict(), first[name]
        assert expected and expected.keys() == state.keys()
        for key, value in expected.items():
            torch.testing.assert_close(state[key], value, msg=lambda m, n=name: f"{n}: {m}")
            assert torch.equal(state[key], second[name][0][key]), name
        assert calls <= STEPS  # one collective a step


@pytest.mark.parametrize("name", STATEFUL)
def test_a_resumed_loss_goes_on(name):
    whole, half, resumed = train(name), train(name, steps=range(1)), build(name)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    train(name, steps=range(1, STEPS), loss=resumed)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    assert any((half.state_dict()[key] != value).any() for key, value in whole.state_dict().items())
    data = batch(whole, seed=9)
    assert total(whole(**data)) == total(resumed(**data)) != total(build(name)(**data))


@all_cases
def test_evaluating_changes_nothing(name, constants):
    loss = train(name, loss=build(name, **constants)).eval()
    before = copy.deepcopy(loss.state_dict())
    data = batch(loss, seed=9)
    values = [total(loss(**data)) for _ in range(2)]
    assert values[0] == values[1]
    loss.predict_probs(data["scores"], embeddings=data["embeddings"])
    for key, value in loss.state_dict().items():
        assert torch.equal(before[key], value)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_step_without_gradient_is_none_of_the_training(name):
    loss = train(name)  # in training mode, as while batch norms are calibrated
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        loss(**batch(loss, seed=9))
    for key, value in loss.state_dict().items():
        assert torch.equal(before[key], value)


@all_cases
def test_buffers_hold_no_graph(name, constants):
    loss = train(name, loss=build(name, **constants))
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_bags_takes_its_groups_from_a_checkpoint():
    loss, other = build("BAGSLoss"), LOSSES["BAGSLoss"](5, torch.zeros(5))
    scores = batch(loss)["scores"]
    assert not torch.equal(other.predict_probs(scores), loss.predict_probs(scores))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.predict_probs(scores), loss.predict_probs(scores))
