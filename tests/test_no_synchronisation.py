"""A training step of any loss never waits for the device.

The step runs on the "meta" device, whose tensors have no values, so that looking at one raises, in
a mode that refuses what would be computed there and yet makes a GPU wait.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from igam_d2.losses import CLS_LOSS_REGISTRY

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = [name for name, _ in CLS_LOSS_REGISTRY]
aten = torch.ops.aten

# By name, as not every release has all of them. What has a result of unknown size, and what looks
# at its input to check it.
WAITING = {
    "_linalg_check_errors", "_local_scalar_dense", "_unique", "_unique2", "argwhere", "bincount",
    "cholesky", "equal", "histc", "is_nonzero", "item", "linalg_cholesky", "linalg_inv",
    "linalg_solve", "masked_select", "multinomial", "nonzero", "nonzero_numpy",
    "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


class Synchronises(AssertionError):
    pass


class NoSynchronisation(TorchDispatchMode):
    """Refuses what makes a GPU wait, also where it can be done without values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if why := waits(name, args, kwargs):
            raise Synchronises(f"aten.{name}, {why}")
        return function(*args, **kwargs)


def waits(name: str, args: tuple, kwargs: dict) -> str | None:
    """Why an operation makes the device wait; None if it does not."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    devices = {t.device.type for t in tensors}
    if name in ("_to_copy", "copy_"):
        target = kwargs.get("device")
        devices |= {target.type} if target is not None else set()
        return "a copy between host and device" if len(devices) > 1 else None
    if "meta" not in devices:
        return None
    if name in WAITING:
        return "whose result or checks depend on values"
    if name in ("lift_fresh", "lift"):
        return "a tensor made on the device from numbers of the host"
    if any(not t.is_meta and t.dim() for t in tensors):  # a single number travels with the kernel
        return "a vector of the host used on the device"
    masks = name in INDEXING and any(
        isinstance(t, torch.Tensor) and t.dtype in (torch.bool, torch.uint8) for t in args[1]
    )
    if masks and not (len(args) > 2 and args[2].numel() == 1 and not args[2].is_meta):
        return "with a mask: the number of elements depends on values"
    return None


def x() -> torch.Tensor:
    return torch.ones(4, 5, device="meta")


@pytest.mark.parametrize(
    "step",
    [
        lambda: x().sum().item(),
        lambda: x().tolist(),
        lambda: bool((x() > 0).any()),
        lambda: x()[x() > 0],
        lambda: x().masked_select(x() > 0),
        lambda: x().index_put_((x() > 0,), x()[0, 0]),
        lambda: x().nonzero(),
        lambda: x().unique(),
        lambda: x().multinomial(1),
        lambda: x().flatten().long().bincount(minlength=4),
        lambda: x().cpu(),
        lambda: x() + torch.ones(5),
        lambda: x()[[0, 1]],
        lambda: torch.tensor(1.0, device="meta"),
        lambda: torch.tensor([1.0, 2.0]).to("meta"),
        lambda: x().copy_(torch.ones(5)),
        lambda: torch.equal(x(), x()),
        lambda: torch.linalg.inv(x()[:4, :4]),
        lambda: x()[0].repeat_interleave(torch.ones(5, device="meta").long()),
    ],
)
def test_waiting_is_noticed(step):
    with pytest.raises(Synchronises), NoSynchronisation():
        step()


def test_what_does_not_wait_passes():
    with NoSynchronisation():
        y = x().requires_grad_()
        index = torch.zeros(4, dtype=torch.long, device="meta")
        filled = x()
        filled[filled > 0] = 0.0
        parts = (
            y.where(y > 0, 0.0),
            y.masked_fill(y > 0, 1.0),
            y * torch.tensor(2.0),
            y.gather(1, index[:, None]),
            y[index],
            y.new_full((4, 5), 2.0) + torch.arange(5, device="meta"),
            y.double(),
            torch.nn.functional.one_hot(index, 5),
            y.topk(2).values,
            (y.detach().cumsum(1) * y),
        )
        sum(part.sum() for part in parts).backward()
    assert y.grad.is_meta
    assert torch.ones(3)[torch.ones(3) > 0].sum().item() == 3  # outside of the mode


@pytest.fixture
def make_case(monkeypatch):
    """A loss and what it is given, as the benchmark has it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import losses

    def make(name: str) -> losses.Case:
        generator = torch.Generator().manual_seed(0)
        context = losses.loss_context(30, generator)
        return losses.Case(name, context, losses.rois(64, context, 0.25, generator))

    yield make
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def steps(case, sample_weight):
    """Two training steps, as the first may differ, with the probabilities that are logged."""
    for _ in range(2):
        with torch.no_grad():
            case.loss.predict_probs(case.scores, embeddings=case.embeddings)
        case.forward(sample_weight).backward()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_loss_does_not_wait(name, weighted, make_case):
    case = make_case(name).to("meta")
    with NoSynchronisation():
        steps(case, torch.ones(64, device="meta") if weighted else None)
    assert case.scores.grad is not None and case.scores.grad.is_meta
