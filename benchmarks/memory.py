#!/usr/bin/env python
"""Memory that training a config takes on each GPU, before one is rented; needs no data set.

    python benchmarks/memory.py --config-file configs/LVISv1/faster_rcnn_R_50_FPN_igam.yaml \\
        [--size 800 1333] [--gpu-batch 2] [KEY VALUE ...]

Measured are what autograd keeps for the backward pass and what a step needs beyond it at its peak,
in a real step of one image of random pixels on the CPU, with random weights and as many foreground
RoIs as are sampled at most. The rest is counted. In float32, or with SOLVER.AMP.ENABLED True in
bfloat16 where autocast takes it.

The total is a lower bound of what a GPU needs: the workspaces of its kernels, CUDA itself and what
the allocator cannot use come on top.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from measure import peak_bytes
from tabulate import tabulate
from torch import Tensor, nn

from igam_d2.config import load_config
from igam_d2.engine import Trainer
from igam_d2.errors import InputError
from igam_d2.losses import ClsLoss
from igam_d2.modeling import EmbeddingClassifier
from igam_d2.moments import ClassMoments, EmbeddingQueue

MADE_UP = "made_up_for_memory"
MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(800, 1333),
        metavar=("HEIGHT", "WIDTH"),
        help="of an image, in pixels; default: 800 1333",
    )
    parser.add_argument(
        "--gpu-batch", type=int, default=2, help="images on each GPU; default: %(default)s"
    )
    parser.add_argument(
        "--instances", type=int, default=12, help="of an image; default: %(default)s"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs of the config")
    args = parser.parse_args(argv)
    own = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATASETS.TRAIN", f"('{MADE_UP}',)"]
    try:
        cfg = load_config(args.config_file, [*args.opts, *own])
        register_made_up_set(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        report(cfg, args)
    except (InputError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def report(cfg: CfgNode, args: argparse.Namespace) -> None:
    height, width = args.size
    amp = cfg.SOLVER.AMP.ENABLED
    print(f"{args.config_file}, {'bfloat16 autocast' if amp else 'float32'}", flush=True)
    print("1 of 5: building the model", flush=True)
    model = Trainer.build_model(cfg).train()

    measured = []
    for number, side in ((2, 200), (3, 266)):  # small ones first, to know what is coming
        scale = min(1, side / min(height, width))
        size = int(height * scale), int(width * scale)
        print(f"{number} of 5: forward pass of {size[0]} x {size[1]}", flush=True)
        with one_image(model, cfg, size, args.instances) as step:
            measured.append((size[0] * size[1], bytes_kept(model, step)))
    (area, small), (larger_area, large) = measured
    slope = max(0, large - small) / max(1, larger_area - area)
    expected = small + slope * (height * width - area)
    check_memory(3 * expected)

    with one_image(model, cfg, (height, width), args.instances) as step:
        size = f"{height} x {width}"
        print(f"4 of 5: forward pass of {size}, about {mib(expected)} MiB", flush=True)
        kept = bytes_kept(model, step)
        print(f"5 of 5: forward and backward pass of {size}", flush=True)
        peak = peak_bytes(lambda: step().backward(), "cpu")
    gradients = num_bytes(p.grad for p in model.parameters() if p.grad is not None)
    print(table(cfg, model, kept, max(0, peak - kept - gradients), args.gpu_batch))


def register_made_up_set(num_classes: int) -> None:
    """A training set with one object of every class, for losses that ask for counts."""
    box = {"bbox": [0.0, 0.0, 8.0, 8.0], "bbox_mode": BoxMode.XYXY_ABS}
    records = [
        {"image_id": k, "annotations": [{"category_id": k, **box}]} for k in range(num_classes)
    ]
    if MADE_UP in DatasetCatalog.list():
        DatasetCatalog.remove(MADE_UP)
        MetadataCatalog.remove(MADE_UP)
    DatasetCatalog.register(MADE_UP, lambda: records)
    MetadataCatalog.get(MADE_UP).set(thing_classes=[str(k) for k in range(num_classes)])


def random_record(cfg: CfgNode, size: tuple[int, int], num_instances: int) -> dict:
    """A mapped record of random pixels, and of instances anywhere in it."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    pixels = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    corner = torch.rand(num_instances, 2, generator=generator) * 0.6
    extent = 0.05 + 0.35 * torch.rand(num_instances, 2, generator=generator)
    boxes = torch.cat([corner, corner + extent], dim=1) * torch.tensor([width, height] * 2)
    instances = Instances(size, gt_boxes=Boxes(boxes))
    instances.gt_classes = torch.randint(
        cfg.MODEL.ROI_HEADS.NUM_CLASSES, (num_instances,), generator=generator
    )
    if cfg.MODEL.MASK_ON:
        outlines = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in boxes.tolist()]
        instances.gt_masks = PolygonMasks([[outline] for outline in outlines])
    return {"image": pixels, "instances": instances, "height": height, "width": width}


@contextmanager
def one_image(
    model: nn.Module, cfg: CfgNode, size: tuple[int, int], num_instances: int
) -> Iterator[Callable[[], Tensor]]:
    """Gives a function that runs the forward pass of an image and returns the loss."""
    record = random_record(cfg, size, num_instances)
    hook = None
    if hasattr(model, "proposal_generator"):
        heads = cfg.MODEL.ROI_HEADS
        number = int(heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION)
        hook = model.proposal_generator.register_forward_hook(with_foreground(number))

    def loss() -> Tensor:
        torch.manual_seed(0)
        amp = cfg.SOLVER.AMP.ENABLED
        with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            return sum(model([record]).values())

    try:
        yield loss
    finally:
        if hook is not None:
            hook.remove()


def with_foreground(number: int) -> Callable:
    """A hook that puts proposals close to the ground truth before those of the generator, which
    with random weights hits next to nothing: mask heads see the foreground alone."""

    def add(_, inputs, output):
        proposals, losses = output
        joined = []
        for found, truth in zip(proposals, inputs[2], strict=True):
            boxes = truth.gt_boxes.tensor
            boxes = boxes.repeat(-(-number // len(boxes)), 1)[:number]
            sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            close = Instances(found.image_size)
            # Half a percent off at each side: still foreground to the last stage of a cascade
            close.proposal_boxes = Boxes(boxes + 0.01 * (torch.rand_like(boxes) - 0.5) * sides)
            close.objectness_logits = boxes.new_zeros(len(boxes))
            joined.append(Instances.cat([close, found]))
        return joined, losses

    return add


def bytes_kept(model: nn.Module, function: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass beside the model, of whose weights it keeps
    views too."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()  # alive until the bytes are counted, so that no address is used twice
    total = sum(storages.values())
    del kept
    return total


def table(cfg: CfgNode, model: nn.Module, kept: int, temporary: int, gpu_batch: int) -> str:
    """
    Args:
        kept, temporary: bytes for the backward pass of an image, and beyond them at the peak.
        gpu_batch: images.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    losses = [m for m in model.modules() if isinstance(m, ClsLoss)]
    state = {id(b) for loss in losses for b in loss.buffers()}
    other = [b for b in model.buffers() if id(b) not in state]
    gradients = num_bytes(trained)
    optimizer, copies = "SGD", int(cfg.SOLVER.MOMENTUM > 0)
    if cfg.SOLVER.OPTIMIZER == "AdamW":
        optimizer, copies = "AdamW", 2
    with torch.device("meta"):
        classifiers = [m for m in model.modules() if isinstance(m, EmbeddingClassifier)]
        moments = [ClassMoments(m.num_classes, m.embedding_dim) for m in classifiers]
        length = cfg.MODEL.IGAM.QUEUE_LENGTH
        queues = [EmbeddingQueue(length, m.embedding_dim) for m in classifiers]
    number = sum(p.numel() for p in model.parameters())
    rows = {
        f"parameters, {number:,}, and buffers": num_bytes([*model.parameters(), *other]),
        f"gradients of {sum(p.numel() for p in trained):,}": gradients,
        "their copy, of several processes": gradients,
        f"state of {optimizer}": copies * gradients,
        f"activations, {gpu_batch} x {mib(kept)}": gpu_batch * kept,
        f"temporary at the peak, {gpu_batch} x {mib(temporary)}": gpu_batch * temporary,
        f"moments of the classes, {of(classifiers)}": buffer_bytes(moments),
        f"queue, {of(classifiers)}": buffer_bytes(queues),
        f"state of {type(losses[0]).__name__}, {of(losses)}": buffer_bytes(losses),
    }
    lines = [(name, mib(size)) for name, size in rows.items()]
    lines.append(("total", mib(sum(rows.values()))))
    return tabulate(
        lines, ("on each GPU", "MiB"), disable_numparse=True, colalign=("left", "right")
    )


def of(modules: list[nn.Module]) -> str:
    return "1 classifier" if len(modules) == 1 else f"{len(modules)} classifiers"


def num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def buffer_bytes(modules: list[nn.Module]) -> int:
    return num_bytes(b for module in modules for b in module.buffers())


def mib(size: float) -> str:
    return f"{size / MIB:,.1f}"


def check_memory(needed: float) -> None:
    """
    Raises:
        MemoryError: this machine, or the container that it is, has less left.
    """
    free = free_bytes()
    if free is not None and needed > free:
        raise MemoryError(
            f"A step needs about {mib(needed)} MiB and {mib(free)} MiB are free here: "
            "take a smaller --size, or a larger machine."
        )


def free_bytes() -> int | None:
    """What is left on this machine and in its control group; None where nobody says."""
    left = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        left.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            left.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        left.append(limit - used)
    except (OSError, ValueError):  # "max" where there is no limit
        pass
    return min(left, default=None)


if __name__ == "__main__":
    sys.exit(main())
