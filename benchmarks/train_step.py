#!/usr/bin/env python
"""Time of a whole training step of Faster R-CNN R50-FPN, 1,203 classes and 512 RoIs an image.

    python benchmarks/train_step.py [--repeats 30] [--images 2] [--size 320]

Detectron2's own FastRCNNOutputLayers beside this project's predictor with cosine CE and with IGAM,
on the same images, proposals and random numbers: forward, backward, SGD, and what the information
hook does after a step. On a GPU with AMP off and on, and with the host-device synchronisations of
a step.
"""

import argparse
import statistics
import time
import warnings
from types import SimpleNamespace

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from measure import devices, interleave, machine, ratio_interval
from tabulate import tabulate

from igam_d2 import add_igam_config
from igam_d2.engine import InformationAmountHook

NUM_CLASSES, ROIS_PER_IMAGE, INSTANCES_PER_IMAGE = 1203, 512, 12
STOCK = "FastRCNNOutputLayers"


class Step:
    """One training step of a model, as SimpleTrainer and the hook do it."""

    def __init__(self, cls_loss: str | None, device: str, amp: bool, images: list[dict]):
        cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
        add_igam_config(cfg)
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, ""
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = ROIS_PER_IMAGE
        cfg.SOLVER.BASE_LR = 1e-5  # the weights stay what they are, and the steps alike
        if cls_loss is not None:
            cfg.MODEL.ROI_HEADS.NAME = "IGAMROIHeads"
            cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = cls_loss
        torch.manual_seed(0)
        self.model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, self.model)
        self.scaler = torch.amp.GradScaler(device, enabled=amp)
        self.device, self.amp, self.images = device, amp, images
        self.storage = EventStorage()
        self.hook = None
        if cls_loss is not None:
            predictor = self.model.roi_heads.box_predictor
            predictor.set_information(torch.linspace(5, 15, NUM_CLASSES, device=device))
            self.hook = InformationAmountHook(self.model, period=10**9, queue_length=50000)
            self.hook.trainer = SimpleNamespace(iter=0, storage=self.storage)

    def __call__(self):
        torch.manual_seed(1)  # of the RoIs that are sampled
        with self.storage, torch.autocast(self.device, torch.float16, enabled=self.amp):
            losses = sum(self.model(self.images).values())
        self.optimizer.zero_grad()
        self.scaler.scale(losses).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.hook is not None:
            self.hook.after_step()

    def num_synchronisations(self) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self()
        torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(w.message) for w in caught)


def random_images(number: int, size: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    height, width = size, size * 3 // 2
    images = []
    for _ in range(number):
        pixels = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        corner = torch.rand(INSTANCES_PER_IMAGE, 2, generator=generator) * size * 0.6
        extent = (0.05 + 0.35 * torch.rand(INSTANCES_PER_IMAGE, 2, generator=generator)) * size
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
        instances.gt_classes = torch.randint(
            NUM_CLASSES, (INSTANCES_PER_IMAGE,), generator=generator
        )
        images.append({"image": pixels, "instances": instances, "height": height, "width": width})
    return images


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=320, help="default: %(default)s pixels")
    args = parser.parse_args()
    images = random_images(args.images, args.size)
    for device in devices():
        for amp in (False, True) if device == "cuda" else (False,):
            steps = {
                name: Step(cls_loss, device, amp, images)
                for name, cls_loss in (
                    (STOCK, None),
                    ("cosine CE", "CosineCELoss"),
                    ("IGAM", "IGAMLoss"),
                )
            }
            start = time.perf_counter()
            steps[STOCK]()
            minutes = 3 * (args.repeats + 1) * (time.perf_counter() - start) / 60
            print(f"{machine(device)}{', AMP' if amp else ''}; about {minutes:.0f} minutes")
            times = interleave(steps, args.repeats, device)
            rows = []
            for name, step in steps.items():
                ratio, low, high = ratio_interval(times[name], times[STOCK])
                row = [name, f"{1e3 * statistics.median(times[name]):.0f}", f"{ratio:.3f}"]
                row += [f"{low:.3f} to {high:.3f}"]
                rows.append([*row, step.num_synchronisations() if device == "cuda" else "-"])
            size = f"{args.images} x {args.size} x {args.size * 3 // 2}"
            print(f"{args.repeats} interleaved steps of {size} pixels")
            heads = ("predictor", "ms", "ratio", "its 95% interval", "synchronisations")
            print(tabulate(rows, heads, disable_numparse=True, colalign=("left", *["right"] * 4)))


if __name__ == "__main__":
    main()
