"""One of two processes that train, apart so that it starts without Detectron2, in half the time."""

import sys

import torch
import torch.distributed as dist

STEPS, ROWS = 3, 12
SPLITS = (5, ROWS, 11)  # rows of a step that the first process has; in the second step all


def train(name: str, share=lambda step: slice(None), steps=range(STEPS), loss=None):
    """A loss after some steps, each with a share of its rows."""
    from loss_cases import batch, build, total

    loss = loss or build(name)
    for step in steps:
        data, rows = batch(loss, ROWS, seed=step), share(step)
        for key in ("scores", "gt_classes", "embeddings"):
            data[key] = data[key][rows]
        total(loss(**data)).backward()
    return loss


def train_a_share(rank: int, folder: str, names: list[str]):
    """Saves the states of the losses, and how often each spoke with the other process."""
    sys.modules["detectron2"] = None
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

    def share(step):
        return slice(0, SPLITS[step]) if rank == 0 else slice(SPLITS[step], None)

    states, calls = {}, []
    reduce = dist.all_reduce
    dist.all_reduce = lambda *args, **kwargs: calls.append(1) or reduce(*args, **kwargs)
    for name in names:
        states[name] = train(name, share).state_dict(), len(calls)
        calls.clear()
    torch.save(states, f"{folder}/{rank}.pth")
    dist.destroy_process_group()
