"""What the benchmarks share: interleaved timing, memory kept for the backward pass, the machine."""

import platform
import statistics
import time
from collections.abc import Callable

import torch

__all__ = [
    "devices",
    "hardware",
    "interleave",
    "machine",
    "peak_bytes",
    "ratio_interval",
    "saved_bytes",
]


def devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def machine(device: str) -> str:
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{hardware(device)}{threads}, torch {torch.__version__}"


def hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            name = next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return name


def interleave(
    functions: dict[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each call, the functions taking turns, so that a slow spell slows them all.

    Every second round goes backwards: what one leaves in the caches is not always to the good of
    the same other.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(-1, repeats):  # one round to warm up
        for name in list(functions)[:: 1 if repeat % 2 else -1]:
            _synchronize(device)
            start = time.perf_counter()
            functions[name]()
            _synchronize(device)
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ratio_interval(times: list[float], reference: list[float]) -> tuple[float, float, float]:
    """Median of the paired ratios, and the ends of its interval of 95% (order statistics)."""
    ratios = sorted(t / r for t, r in zip(times, reference, strict=True))
    n = len(ratios)
    # Normal approximation of the binomial ranks between which the median lies
    reach = 0.98 * n**0.5
    low, high = max(0, int(n / 2 - reach)), min(n - 1, int(n / 2 + reach))
    return statistics.median(ratios), ratios[low], ratios[high]


def saved_bytes(function: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of a function, parameters left out."""
    storages = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()  # alive until the bytes are counted, so that no address is used twice
    total = sum(storages.values())
    del kept
    return total


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """Bytes that a call allocates at most beyond what was allocated before it."""
    if device == "cuda":
        _synchronize(device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        function()
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
