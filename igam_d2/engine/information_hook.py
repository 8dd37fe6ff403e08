"""The hook that keeps the information amounts of all classes up to date while a detector trains."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import InputError
from ..files import write_whole
from ..modeling import EmbeddingClassifier
from ..moments import ClassMoments, EmbeddingQueue

__all__ = ["InformationAmountHook"]

# A largest margin below this, in radians, leaves the loss a plain cosine softmax.
NEGLIGIBLE_MARGIN = 1e-3


class InformationAmountHook(HookBase):
    """Gathers the embeddings of every step, and refreshes the information amounts from them.

    It owns a queue and the moments of every :class:`EmbeddingClassifier` of the model. After each
    step it takes over the step's embeddings; at the end of each period it reduces the moments over
    all processes, hands the information amounts to the predictor, logs them and starts anew. A
    class with fewer than two embeddings in a period keeps its last information amount.

    Register it before what saves or writes. Only a full queue, a refresh and a checkpoint
    synchronise with the device; the last two alone communicate with other processes.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        period: int,
        queue_length: int = 50000,
        shrinkage: str = "none",
        output_dir: str | None = None,
    ):
        """
        Args:
            model: any module with :class:`EmbeddingClassifier` in it, on its device.
            period: iterations between two refreshes.
            queue_length: embeddings gathered before they enter the moments.
            shrinkage: of :func:`igam_d2.functional.information_amount`.
            output_dir: folder for `information.jsonl`, a line for each refresh and predictor.
        """
        self._period = period
        self._shrinkage = shrinkage
        self._file = Path(output_dir) / "information.jsonl" if output_dir else None
        self._predictors: dict[str, EmbeddingClassifier] = {}
        self._moments: dict[str, ClassMoments] = {}
        self._queues: dict[str, EmbeddingQueue] = {}
        for name, module in model.named_modules():
            if isinstance(module, EmbeddingClassifier):
                name = name.removeprefix("module.")
                device, dim = module.information.device, module.embedding_dim
                self._predictors[name] = module
                self._moments[name] = ClassMoments(module.num_classes, dim).to(device)
                self._queues[name] = EmbeddingQueue(queue_length, dim).to(device)
        self._warned_nonfinite = self._warned_margin = False

    def before_train(self):
        if self._file is not None and self._file.is_file() and comm.is_main_process():
            self._drop_lines_after(self.trainer.start_iter)

    def after_step(self):
        for name, predictor in self._predictors.items():
            if (instances := predictor.take_instances()) is not None:
                self._enqueue(name, *instances)
        if (self.trainer.iter + 1) % self._period == 0:
            self.refresh()

    def _enqueue(self, name: str, embeddings: Tensor, classes: Tensor) -> None:
        queue = self._queues[name]
        while len(classes):
            taken = queue.enqueue(embeddings, classes)
            embeddings, classes = embeddings[taken:], classes[taken:]
            if queue.is_full:
                queue.flush_(self._moments[name])

    def collect(self) -> None:
        """Moves all embeddings of all processes into the moments of the main process.

        To be called by all processes before a checkpoint, which the main process writes.
        """
        for name, moments in self._moments.items():
            self._queues[name].flush_(moments)
            moments.all_reduce_()
            if not comm.is_main_process():
                moments.reset_()

    @torch.no_grad()
    def refresh(self) -> None:
        """Turns the moments since the last refresh into information amounts, on all processes."""
        for name, predictor in self._predictors.items():
            moments = self._moments[name]
            self._queues[name].flush_(moments)
            moments.all_reduce_()
            measured = moments.information_amount(shrinkage=self._shrinkage)
            usable = (moments.count >= 2) & measured.isfinite()
            predictor.set_information(torch.where(usable, measured, predictor.information))
            self._log(name, predictor, moments)
            moments.reset_()

    def _log(self, name: str, predictor: EmbeddingClassifier, moments: ClassMoments) -> None:
        storage = self.trainer.storage
        num_seen = int((moments.count > 0).sum())
        summary = f"{num_seen} of {len(moments.count)} classes seen"
        stage = name.rpartition(".")[2]  # Cascade R-CNN has a predictor per stage, numbered
        prefix = f"igam/stage{stage}/" if stage.isdigit() else "igam/"
        storage.put_scalar(prefix + "num_classes_seen", num_seen)
        self._warn_nonfinite(name, int(moments.num_nonfinite))

        known = predictor.information[predictor.information.isfinite()]
        if len(known):
            low, mean, high = known.min().item(), known.mean().item(), known.max().item()
            storage.put_scalar(prefix + "information_min", low)
            storage.put_scalar(prefix + "information_mean", mean)
            storage.put_scalar(prefix + "information_max", high)
            summary += f", information {low:.2f} / {mean:.2f} / {high:.2f} bits (min / mean / max)"
            storage.put_histogram(prefix + "information_bits", known.cpu(), bins=64)
        potentials = getattr(predictor.cls_loss, "potentials", None)
        if potentials is not None:
            known = potentials[potentials.isfinite()].sort().values
            largest, mean = _margin_summary(known)
            storage.put_scalar(prefix + "max_margin", largest)
            storage.put_scalar(prefix + "mean_margin", mean)
            summary += f", margins up to {largest:.2g} rad, {mean:.2g} on average"
            if len(known) > 1:
                self._warn_margin(largest)
                # Of each class towards the class with the least information: K numbers, not K x K
                storage.put_histogram(prefix + "margin_rad", (known - known[0]).cpu(), bins=64)
        logging.getLogger(__name__).info(
            "Refreshed %s at iteration %d: %s", name, self.trainer.iter + 1, summary
        )
        if self._file is not None and comm.is_main_process():
            self._append_line(name, predictor, moments)

    def _append_line(
        self, name: str, predictor: EmbeddingClassifier, moments: ClassMoments
    ) -> None:
        line = {
            "iteration": self.trainer.iter + 1,
            "predictor": name,
            "information": _finite(predictor.information.tolist()),
            "count": moments.count.tolist(),
        }
        potentials = getattr(predictor.cls_loss, "potentials", None)
        if potentials is not None:  # the margins: sign * max(0, u_i - u_j) rad
            line["potentials"] = _finite(potentials.tolist())
            line["margin_sign"] = getattr(predictor.cls_loss, "margin_sign", 1)
        with self._file.open("a") as f:
            f.write(json.dumps(line) + "\n")

    def _drop_lines_after(self, iteration: int) -> None:
        """Forgets what an interrupted run, or another in this folder, wrote after a checkpoint."""
        lines = self._file.read_text().splitlines(keepends=True)
        kept = []
        for line in lines:
            try:
                if line.endswith("\n") and json.loads(line)["iteration"] <= iteration:
                    kept.append(line)
            except ValueError:  # cut off while being written
                break
        if kept != lines:
            write_whole(self._file, lambda f: f.write("".join(kept).encode()))

    def _warn_nonfinite(self, name: str, number: int) -> None:
        if number == 0 or self._warned_nonfinite:
            return
        self._warned_nonfinite = True
        logging.getLogger(__name__).warning(
            "%d embeddings of %s held a NaN or Inf up to iteration %d and were left out of the "
            "information amounts; a smaller SOLVER.BASE_LR or gradient clipping is the usual cure.",
            *(number, name, self.trainer.iter + 1),
        )

    def _warn_margin(self, largest: float) -> None:
        if largest >= NEGLIGIBLE_MARGIN or self._warned_margin:
            return
        self._warned_margin = True
        logging.getLogger(__name__).warning(
            "The largest margin is %.1e rad, below %g: the loss is in effect a plain cosine "
            "softmax; MODEL.IGAM.NORMALIZATION 'mean' or 'ratio' gives larger ones.",
            *(largest, NEGLIGIBLE_MARGIN),
        )

    def state_dict(self) -> dict[str, Any]:
        """The moments, complete on the main process after :meth:`collect`."""
        if comm.get_world_size() == 1:  # also right when somebody saves at another time
            self.collect()
        return {name: moments.state_dict() for name, moments in self._moments.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, moments in self._moments.items():
            moments.reset_()
            if not comm.is_main_process():
                continue  # the main process holds the sum: nothing may be counted twice
            state = state_dict.get(name)
            if state is None or state["mean"].shape != moments.mean.shape:
                shape = None if state is None else tuple(state["mean"].shape)
                raise InputError(
                    f"The checkpoint's statistics of {name} are of shape {shape}, this model's "
                    f"{tuple(moments.mean.shape)}: resume with the number of classes and the "
                    "MODEL.IGAM.EMBEDDING_DIM that the run began with."
                )
            moments.load_state_dict(state)


def _finite(values: list[float]) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in values]  # JSON has no NaN


def _margin_summary(potentials: Tensor) -> tuple[float, float]:
    """Largest and mean of relu(u_i - u_j) over pairs i != j, from sorted potentials (K,)."""
    k = len(potentials)
    if k < 2:
        return 0.0, 0.0
    # The k-th smallest is added for each smaller one and subtracted for each larger one.
    rank = torch.arange(k, device=potentials.device)
    total = ((2 * rank - (k - 1)) * potentials).sum()
    return (potentials[-1] - potentials[0]).item(), total.item() / (k * (k - 1))
