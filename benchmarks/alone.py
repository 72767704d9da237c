"""Measuring one way of doing something in a process of its own, so that none inherits another's caches or memory."""

import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Measured(NamedTuple):
    """Result of a way, its seconds without start and warm-up, those of the processor, and its largest memory."""

    result: Any
    seconds: float
    cpu_seconds: float
    mebibytes: float


def alone(way: Callable[..., Any], *arguments: Any, device: str = "cpu", warm_up: int = 0) -> Measured:
    """Run `way(*arguments)` in a fresh process.

    Args:
        way: a function of a module, which a fresh process can import.
        arguments: networks and tensors are moved to the device first.
        device: "cpu" or "cuda".
        warm_up: with how many rows of the tensors the way is run once before it is timed; 0 for not at all.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, way, arguments, device, warm_up).result()


def _measure(way: Callable[..., Any], arguments: tuple[Any, ...], device: str, warm_up: int) -> Measured:
    arguments = tuple(x.to(device) if isinstance(x, nn.Module | Tensor) else x for x in arguments)
    if warm_up:
        way(*(x[:warm_up] if isinstance(x, Tensor) else x for x in arguments))
    start, cpu_start = time.perf_counter(), time.process_time()
    result = way(*arguments)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Measured(
        result, seconds, cpu_seconds, torch.cuda.max_memory_reserved() / 2**20 if device == "cuda" else _peak()
    )


def _peak() -> float:
    """Mebibytes of this process at its largest; the resource module would count its parent's at the start, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) / 1024  # type: ignore[index]
