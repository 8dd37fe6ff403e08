"""Detectron2's launch with checks ahead, a limit to waiting, and SIGTERM passed on."""

import contextlib
import logging
import multiprocessing
import signal
import socket
import time
from datetime import timedelta
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch as launch_detectron2
from detectron2.utils.logger import setup_logger
from torch.distributed import distributed_c10d
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..data import register_datasets
from ..errors import InputError, TransientError
from .checkpoint_hook import PREEMPTED

__all__ = ["launch"]

_SAID = "igam_d2/input_error"


def launch(main, args, cfg: CfgNode) -> None:
    """Runs `main(args, cfg)` in as many processes as the command line asks for.

    Args:
        args: of Detectron2's parser, with `dist_timeout`, the minutes to wait for other machines
            and in a collective.

    Raises:
        InputError: more processes than GPUs, or an address that cannot be one.
        TransientError: machines that did not find each other in time, or what a process said.
        SystemExit: with :data:`PREEMPTED` after SIGTERM.
    """
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_traceback)
    num_processes = args.num_gpus * args.num_machines
    if num_processes == 1:
        main(args, cfg)
        return
    _check_processes(args, cfg)
    if args.num_machines > 1:
        setup_logger(name="igam_d2")
        _check_machines(args)
        logging.getLogger(__name__).info(
            "Machine %d of %d: waiting up to %g minutes for all of them at %s.",
            *(args.machine_rank, args.num_machines, args.dist_timeout, args.dist_url),
        )
    previous = signal.signal(signal.SIGTERM, _pass_on)
    try:
        launch_detectron2(
            _run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            # On one machine any free port will do, also beside another run.
            dist_url=args.dist_url if args.num_machines > 1 else "auto",
            args=(main, args, cfg),
            timeout=timedelta(minutes=args.dist_timeout),
        )
    except ProcessExitedException as error:
        if error.exit_code in (PREEMPTED, -signal.SIGTERM):
            raise SystemExit(PREEMPTED) from None
        raise
    except ProcessRaisedException as error:
        text = str(error)
        for kind in (InputError, TransientError):  # said by a process
            name = f"{kind.__module__}.{kind.__name__}: "
            if name in text:
                raise kind(text.rsplit(name, 1)[1].strip()) from None
        missed = "DistStoreError" in text or "DistNetworkError" in text
        if missed and "init_process_group" in text:
            raise TransientError(
                f"Not all of the {args.num_machines} machines were at {args.dist_url!r} "
                f"(--dist-url) within {args.dist_timeout:g} minutes (--dist-timeout): start each "
                "with its own --machine-rank, and the same address, which is that of machine 0."
            ) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(main, args, cfg: CfgNode) -> None:
    """In each process: none leaves while another is in the last collective, which would fail."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_traceback)
    register_datasets(cfg)  # Detectron2's catalogs are each process's own
    try:
        main(args, cfg)
    except SystemExit:
        _leave_together(timedelta(seconds=5))  # there is little time left after SIGTERM
        raise
    except InputError as error:
        with contextlib.suppress(dist.DistError):
            distributed_c10d._get_default_store().set(_SAID, str(error))
        raise
    except Exception:
        if (said := _said_by_another()) is not None:
            raise InputError(said) from None
        raise
    _leave_together(timedelta(minutes=1))


def _said_by_another() -> str | None:
    """The bad input that another process found: a collective fails where that one is gone."""
    with contextlib.suppress(dist.DistError):
        if dist.is_initialized():
            store = distributed_c10d._get_default_store()
            return store.get(_SAID).decode() if store.check([_SAID]) else None
    return None


def _without_traceback(record: logging.LogRecord) -> bool:
    """Of what a user is told in a sentence, the log has that sentence."""
    error = record.exc_info[1] if record.exc_info else None
    said = str(error) if isinstance(error, InputError | TransientError) else None
    if said is None and error is not None:
        said = _said_by_another()
    if said is not None:
        record.msg, record.args, record.exc_info = "The training ends: %s", (said,), None
    return True


def _leave_together(limit: timedelta) -> None:
    """Waits for the others that are soon done; through the store, which needs no connections."""
    store = distributed_c10d._get_default_store()
    rank, ranks = dist.get_rank(), range(dist.get_world_size())
    with contextlib.suppress(dist.DistError):  # somebody evaluates, or is gone
        store.set(f"igam_d2/done/{rank}", "")
        store.wait([f"igam_d2/done/{other}" for other in ranks], limit)
    with contextlib.suppress(dist.DistError):
        store.set(f"igam_d2/left/{rank}", "")
        if rank == 0:  # the store is there
            store.wait([f"igam_d2/left/{other}" for other in ranks], limit)


def _pass_on(*_) -> None:
    children = multiprocessing.active_children()
    if not children:
        raise SystemExit(PREEMPTED)
    for child in children:
        child.terminate()  # SIGTERM, at which they agree on a checkpoint


def _check_processes(args, cfg: CfgNode) -> None:
    if args.num_gpus < 1 or args.num_machines < 1:
        raise InputError(
            f"--num-gpus is {args.num_gpus} and --num-machines {args.num_machines}: both must be "
            "at least 1."
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise InputError(
            f"--machine-rank is {args.machine_rank}: with {args.num_machines} machines it must be "
            f"from 0 to {args.num_machines - 1}."
        )
    if not args.dist_timeout > 0:
        raise InputError(f"--dist-timeout is {args.dist_timeout:g}: it must be above 0 minutes.")
    available = torch.cuda.device_count()
    on_cpu = not cfg.MODEL.DEVICE.startswith("cuda")
    if on_cpu and available:
        raise InputError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but several processes on a machine with GPUs "
            "run on these: set it to 'cuda', or hide them with CUDA_VISIBLE_DEVICES=''."
        )
    if not on_cpu and args.num_gpus > available:
        raise InputError(
            f"--num-gpus is {args.num_gpus}, but this machine has {available}: each process needs "
            "one of its own."
        )


def _check_machines(args) -> None:
    """Whether the address of machine 0 can be had, there, or be reached, elsewhere."""
    url = urlsplit(args.dist_url)
    try:
        port = url.port
    except ValueError:
        port = None
    if url.scheme != "tcp" or not url.hostname or not port:
        raise InputError(
            f"--dist-url is {args.dist_url!r}: several machines need that of machine 0, as in "
            "tcp://10.0.0.1:29500."
        )
    if args.machine_rank == 0:
        try:
            with socket.create_server(("", port)):
                return
        except OSError as error:
            raise InputError(
                f"Port {port} of this machine cannot be used for --dist-url {args.dist_url!r} "
                f"({error.strerror}): take another one, on all machines."
            ) from error
    # Machine 0 may be slower to start.
    limit = 60 * args.dist_timeout
    end, next_word = time.monotonic() + limit, 10.0
    while True:
        try:
            socket.create_connection((url.hostname, port), timeout=min(5, limit)).close()
            return
        except OSError as error:
            left = end - time.monotonic()
            if left <= 0:
                raise TransientError(
                    f"Machine 0 could not be reached at {args.dist_url!r} (--dist-url) within "
                    f"{args.dist_timeout:g} minutes (--dist-timeout): {error.strerror or error}."
                ) from error
            if limit - left > next_word:
                logging.getLogger(__name__).warning(
                    "Machine 0 cannot be reached at %s yet (%s): trying for %.0f more minutes.",
                    *(args.dist_url, error.strerror or error, left / 60),
                )
                next_word *= 2
            time.sleep(min(1, left))
