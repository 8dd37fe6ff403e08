#!/usr/bin/env python
"""Images per second of training Faster R-CNN R50-FPN: Detectron2's settings beside this project's.

    python benchmarks/throughput.py [--size 800 1333] [--batch 2] [--workers 4] [--repeats 11]

Detectron2's are faster_rcnn_R_50_FPN_1x.yaml of its model zoo, by its own trainer: float32, its
optimiser, its memory format. Ours are configs/LVISv1/faster_rcnn_R_50_FPN_igam.yaml by this
project's trainer: as it is, with each switch alone, and with all of them. Both train on the same
made-up JPEG files of LVIS's 1,203 classes, which they read and resize, with all hooks that run
between two evaluations; random weights, one process.

They take turns, of several steps each, so that loading ahead during another's turn counts little.
"""

import argparse
import logging
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, hooks
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from measure import devices, interleave, machine, ratio_interval
from PIL import Image
from tabulate import tabulate

from igam_d2.config import load_config
from igam_d2.engine import Trainer

CONFIG = Path(__file__).parents[1] / "configs" / "LVISv1" / "faster_rcnn_R_50_FPN_igam.yaml"
MADE_UP = "made_up_for_throughput"
NUM_CLASSES, INSTANCES_PER_IMAGE = 1203, 12
STOCK, BARE, ALL = "Detectron2", "ours, no switch", "ours, all"
# What there is to switch, as config keys; those of CUDA alone
SWITCHES = {
    "AMP": {"SOLVER.AMP.ENABLED": "True"},
    "channels-last": {"MODEL.CHANNELS_LAST": "True"},
    "fused": {"SOLVER.FUSED": "True"},
    "cudnn benchmark": {"CUDNN_BENCHMARK": "True"},
}
NEEDS_CUDA = {"AMP", "cudnn benchmark"}


class Turn:
    """Some steps of a trainer, with its hooks, as its `train` does them."""

    def __init__(self, trainer: DefaultTrainer, num_steps: int):
        self.trainer, self.num_steps = trainer, num_steps
        self.cudnn_benchmark = trainer.cfg.CUDNN_BENCHMARK
        trainer.iter = trainer.start_iter = 0
        trainer.storage = EventStorage(0)
        handler = signal.getsignal(signal.SIGTERM)
        with trainer.storage:
            trainer.before_train()
        signal.signal(signal.SIGTERM, handler)  # there is nothing to save at

    def __call__(self):
        trainer = self.trainer
        torch.backends.cudnn.benchmark = self.cudnn_benchmark  # as default_setup sets it
        with trainer.storage:
            for _ in range(self.num_steps):
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
                trainer.iter += 1

    def close(self):
        """Ends its log; there is nothing else to end, and nothing to keep."""
        with self.trainer.storage:
            for hook in self.trainer._hooks:
                if isinstance(hook, hooks.PeriodicWriter):
                    hook.after_train()


@contextmanager
def made_up_set(number: int, size: tuple[int, int]) -> Iterator[None]:
    """Registers images that have to be enlarged by 5 / 3, as COCO's, of which 800 are made."""
    rng = np.random.default_rng(0)
    height, width = (round(0.6 * side) for side in size)
    with tempfile.TemporaryDirectory() as folder:
        records = []
        for image_id in range(number):
            path = Path(folder) / f"{image_id}.jpg"
            coarse = rng.integers(256, size=(height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((width, height)).save(path)
            corner = rng.uniform(0, 0.6, size=(INSTANCES_PER_IMAGE, 2))
            extent = rng.uniform(0.05, 0.4, size=(INSTANCES_PER_IMAGE, 2))
            boxes = np.concatenate([corner, corner + extent], axis=1) * ([width, height] * 2)
            annotations = [
                {
                    "bbox": box.tolist(),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": int(rng.integers(NUM_CLASSES)),
                }
                for box in boxes
            ]
            image = {"file_name": str(path), "image_id": image_id, "height": height, "width": width}
            records.append(image | {"annotations": annotations})
        DatasetCatalog.register(MADE_UP, lambda: records)
        MetadataCatalog.get(MADE_UP).thing_classes = [str(k) for k in range(NUM_CLASSES)]
        try:
            yield
        finally:
            DatasetCatalog.remove(MADE_UP)
            MetadataCatalog.remove(MADE_UP)


def shared_keys(args: argparse.Namespace, device: str, folder: str) -> list[str]:
    height, width = args.size
    keys = {
        "MODEL.DEVICE": device,
        "MODEL.WEIGHTS": "",
        "MODEL.ROI_HEADS.NUM_CLASSES": str(NUM_CLASSES),
        "DATASETS.TRAIN": f"('{MADE_UP}',)",
        "DATASETS.TEST": "()",
        "INPUT.MIN_SIZE_TRAIN": f"({height},)",
        "INPUT.MAX_SIZE_TRAIN": str(max(height, width)),
        "DATALOADER.NUM_WORKERS": str(args.workers),
        "SOLVER.IMS_PER_BATCH": str(args.batch),
        "SOLVER.BASE_LR": "1e-5",  # the weights stay what they are, and the steps alike
        "SOLVER.MAX_ITER": "10000000",
        "SOLVER.STEPS": "()",
        "SOLVER.CHECKPOINT_PERIOD": "10000000",
        "OUTPUT_DIR": folder,
    }
    return [text for pair in keys.items() for text in pair]


def stock_trainer(shared: list[str]) -> DefaultTrainer:
    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_list(shared)
    return DefaultTrainer(cfg)


def our_trainer(shared: list[str], switches: list[str]) -> Trainer:
    keys = {
        "SOLVER.MAX_EPOCHS": "0",
        "SOLVER.STEPS_EPOCHS": "[]",
        "SOLVER.REFERENCE_BATCH_SIZE": "0",
        "MODEL.IGAM.REFRESH_PERIOD": "1000000",  # of a real data set's epoch nothing is seen here
    }
    for name in switches:
        keys |= SWITCHES[name]
    if len(switches) > 1:  # without effect on the steps
        keys["DATALOADER.PERSISTENT_WORKERS"] = "True"
    trainer = Trainer(load_config(str(CONFIG), [*shared, *(t for p in keys.items() for t in p)]))
    information = torch.linspace(5, 15, NUM_CLASSES, device=trainer.cfg.MODEL.DEVICE)
    trainer.model.roi_heads.box_predictor.set_information(information)
    return trainer


def compare(args: argparse.Namespace, device: str, folder: str) -> str:
    shared = shared_keys(args, device, folder)
    switches = [name for name in SWITCHES if device == "cuda" or name not in NEEDS_CUDA]
    turns = {}
    torch.manual_seed(0)
    turns[STOCK] = Turn(stock_trainer(shared), args.steps)
    for name, chosen in (
        (BARE, []),
        *((f"ours, {switch}", [switch]) for switch in switches),
        (ALL, switches),
    ):
        torch.manual_seed(0)
        turns[name] = Turn(our_trainer(shared, chosen), args.steps)
    start = time.perf_counter()
    turns[STOCK]()
    minutes = len(turns) * (args.repeats + 1) * (time.perf_counter() - start) / 60
    print(f"{machine(device)}; about {minutes:.0f} minutes", flush=True)
    times = interleave(turns, args.repeats, device)
    for turn in turns.values():
        turn.close()
    rows = []
    for name in turns:
        speed = args.steps * args.batch / statistics.median(times[name])
        ratio, low, high = ratio_interval(times[STOCK], times[name])
        rows.append((name, f"{speed:.3g}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}"))
    heads = ("", "images/s", f"over {STOCK}", "its 95% interval")
    return tabulate(rows, heads, disable_numparse=True, colalign=("left", *["right"] * 3))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images in training; default: 800 1333 on a GPU, 256 427 on a CPU",
    )
    parser.add_argument("--batch", type=int, default=2, help="images a step; default: %(default)s")
    parser.add_argument("--images", type=int, default=64, help="in all; default: %(default)s")
    parser.add_argument("--workers", type=int, help="of a loader; default: 4 on a GPU, else 0")
    parser.add_argument("--steps", type=int, help="of a turn; default: 40 on a GPU, else 2")
    parser.add_argument("--repeats", type=int, default=11, help="default: %(default)s turns each")
    args = parser.parse_args(argv)
    device = devices()[-1]
    gpu = device == "cuda"
    args.size = args.size or ((800, 1333) if gpu else (256, 427))
    args.workers = (4 if gpu else 0) if args.workers is None else args.workers
    args.steps = args.steps or (40 if gpu else 2)
    # Trainers that find it so do not set up a log of all models on the screen
    logging.getLogger("detectron2").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, made_up_set(args.images, args.size):
        print(f"{args.batch} x {args.size[0]} x {args.size[1]} pixels, {args.workers} workers")
        print(compare(args, device, folder))


if __name__ == "__main__":
    main()
