"""The hook that writes checkpoints from which a run goes on as if nothing had happened."""

import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch.distributed import distributed_c10d

from ..data.train_loader import BatchStream
from .checkpoint import Checkpointer
from .random_state import random_state, set_random_state

__all__ = ["PREEMPTED", "CheckpointHook"]

# Exit status of a run that SIGTERM ended, as shells and schedulers know it
PREEMPTED = 128 + signal.SIGTERM

_STOP_AT = "igam_d2/stop_at"


class CheckpointHook(HookBase):
    """Detectron2's periodic checkpoints, complete enough for a resumed run to go on exactly.

    On all processes it takes the place of Detectron2's checkpointer, which the main process has
    alone: what only the others know (their embeddings, their random states) is brought together
    first. It also saves the position in the training data, and saves before an evaluation, which
    may take longer than the notice that a preempted job gets.

    At SIGTERM, to any of the processes, all save once after the same iteration and exit with
    status :data:`PREEMPTED`. The processes agree through the store of their process group, not by
    a collective. In an evaluation, with everything saved, a process does not wait for that.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        stream: BatchStream | None = None,
        *,
        period: int,
        eval_period: int = 0,
        collect: Callable[[], None] = lambda: None,
    ):
        """
        Args:
            checkpointer: it writes on the main process alone.
            stream: what the training data come from; None if their position is not to be saved.
            period: iterations between two checkpoints; 0 for the one at the end alone.
            eval_period: iterations between two evaluations; 0 for the one at the end alone.
            collect: called by all processes just before a checkpoint.
        """
        self._checkpointer, self._stream, self._collect = checkpointer, stream, collect
        self._period, self._eval_period = period, eval_period
        self._random_states: list[dict[str, Any]] = []
        self._restore: dict[str, Any] | None = None
        self._sigterm = self._stopping = False
        self._nothing_to_lose = True
        self._previous_handler = None

    def before_train(self):
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def before_step(self):
        self._nothing_to_lose = False
        if self._restore is not None:
            set_random_state(self._restore, self._device)
            self._restore = None

    def after_step(self):
        iteration = self.trainer.iter + 1
        # The first iteration that nobody has finished yet: none gets past the metrics of an
        # iteration, which Detectron2 gathers in each, before all have begun it.
        stop = self._stop_at(announce=iteration)
        stop = stop is not None and self.trainer.iter >= stop
        last = iteration == self.trainer.max_iter
        evaluates = last or (self._eval_period > 0 and iteration % self._eval_period == 0)
        if not (stop or evaluates or (self._period > 0 and iteration % self._period == 0)):
            return
        self._save("model_final" if last else f"model_{self.trainer.iter:07d}")
        # Saving has brought all together: who was to stop later may as well now.
        if self._stop_at() is not None:
            self._exit()
        # One of several processes goes alone only where the others are long busy elsewhere.
        self._nothing_to_lose = evaluates or comm.get_world_size() == 1
        if self._sigterm and self._nothing_to_lose:  # it came just now
            self._exit()

    def after_train(self):
        if self._previous_handler is not None and not self._stopping:
            signal.signal(signal.SIGTERM, self._previous_handler)
        if self._stopping and self.trainer.iter + 1 >= self.trainer.max_iter:
            # Without the evaluation at the end, which would be next: the resumed run does it.
            for hook in self.trainer._hooks:
                if isinstance(hook, hooks.PeriodicWriter):
                    hook.after_train()
            raise SystemExit(PREEMPTED)

    def _save(self, name: str) -> None:
        self._collect()
        state = random_state(self._device)
        self._random_states = comm.gather(state)
        self._checkpointer.save(name, iteration=self.trainer.iter)
        self._stop_at(announce=self.trainer.iter)
        comm.synchronize()  # nobody exits before it is written
        # An evaluation that follows is not repeated by a resumed run: it leaves no trace.
        self._restore = state

    @property
    def _device(self) -> torch.device:
        return next(self.trainer.model.parameters()).device

    # --- SIGTERM

    def _on_sigterm(self, *_) -> None:
        self._sigterm = True
        if self._nothing_to_lose:
            self._exit()

    def _stop_at(self, announce: int | None = None) -> int | None:
        """The iteration to stop after, None for none; a process that was signalled announces it."""
        if comm.get_world_size() == 1:
            return self.trainer.iter if self._sigterm else None
        store = distributed_c10d._get_default_store()
        if self._sigterm and announce is not None:
            store.compare_set(_STOP_AT, "", str(announce))  # the first one counts
        return int(store.get(_STOP_AT)) if store.check([_STOP_AT]) else None

    def _exit(self) -> None:
        self._stopping = True
        if self._previous_handler is not None:  # once is enough: what is written is written whole
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.getLogger(__name__).warning(
            "SIGTERM: the run ends here; --resume goes on from its last checkpoint in %r.",
            self._checkpointer.save_dir,
        )
        raise SystemExit(PREEMPTED)

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Position in the data, and the random state of each process."""
        if comm.get_world_size() == 1:  # also right when somebody saves at another time
            self._random_states = [random_state(self._device)]
        state = {"random_states": self._random_states}
        if self._stream is not None:
            num_batches = self.trainer.iter + 1 - self.trainer.start_iter
            state["data"] = self._stream.state_dict(num_batches)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A process that the interrupted run did not have keeps the state it was started with."""
        if self._stream is not None and "data" in state_dict:
            self._stream.load_state_dict(state_dict["data"])
        states, rank = state_dict["random_states"], comm.get_rank()
        self._restore = states[rank] if rank < len(states) else None
