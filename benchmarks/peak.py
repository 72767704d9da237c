"""The share of a machine's own peak that some work reaches, and the reason where it is small.

The peak is a product of square matrices in the same precision, measured in the same run and by as many threads. Counted
are the multiplications and additions of convolutions and matrix products, of the work as it was done: a pass that an
algorithm saves does not count.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.alone import alone

ENOUGH = 0.6  # of the peak; below it a table says why
SIZES = {"cpu": 1024, "cuda": 8192}
_ROUNDS = 12
# Operations by what they do, by parts of their names, the first that fits.
_KINDS = {
    "convolutions": ("conv",),
    "matrix products": ("mm", "linear", "gemm"),
    "pools": ("pool",),
    "norms": ("norm",),
    "rectifiers": ("relu", "threshold", "clamp_min"),
    "copies and fills": ("copy", "cat", "fill", "zero", "contiguous", "clone"),
    "optimiser": ("adam", "optimizer", "lerp", "addcdiv", "sqrt", "foreach"),
}


def matrix_product(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some products of square matrices, in exact float32 or in bfloat16."""
    size = SIZES[device]
    one, other = torch.rand(2, size, size, device=device).to(dtype)
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        one @ other
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def peak(device: str, precision: str = "32-true") -> float:
    """`matrix_product` in a process of its own, for a precision of Lightning's Trainer."""
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    return float(alone(matrix_product, device, dtype).result)


def count(work: Callable[[], Any]) -> int:
    """Multiplications and additions of convolutions and matrix products of some work, which is done."""
    with _Counter() as counter:
        work()
    return counter.total


class _Counter(TorchDispatchMode):
    """Torch's own counts; its `FlopCounterMode` refuses `torch.autograd.grad` with respect to a leaf."""

    total = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        if formula := flop_registry.get(operation._overloadpacket):
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def where_time_goes(work: Callable[[], Any], device: str = "cpu") -> str:
    """Shares of the time that some work spends in kinds of operations, as in `convolutions 68 %, pools 10 %`."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    work()
    with profile(activities=activities) as profiler:
        work()
        _wait(device)
    return describe(profiler.key_averages(), device)


def describe(events: EventList, device: str = "cpu") -> str:
    """Shares of time by kinds of operations, the largest first, none below 3 %."""
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        name, seconds = (
            event.key.lower(),
            event.self_device_time_total if device == "cuda" else event.self_cpu_time_total,
        )
        kind = next((kind for kind, parts in _KINDS.items() if any(part in name for part in parts)), event.key)
        spent[kind] += seconds
    total = sum(spent.values()) or 1.0
    shares = sorted(((seconds / total, kind) for kind, seconds in spent.items()), reverse=True)
    return ", ".join(f"{kind} {share:.0%}" for share, kind in shares if share >= 0.03)


def columns(flops: float, seconds: float, of: float, work: Callable[[], Any], device: str) -> dict[str, float | str]:
    """Columns of a table: GFLOP/s, share of the peak, and why it is small.

    Args:
        flops: that were computed.
        seconds: that it took.
        of: the peak, FLOP/s.
        work: the same on fewer images, which is looked into where the share is small.
        device: "cpu" or "cuda".
    """
    share = flops / seconds / of
    reason = "" if share >= ENOUGH else f"time: {where_time_goes(work, device)}"
    return {"GFLOP/s": flops / seconds / 1e9, "share of peak": share, "below 60 % because of": reason}


def attack_step(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """One gradient of the loss, which is what attacks wait for, of a network as the evaluator fuses it."""
    from symmetry_robustness.attacks.base import loss_gradient
    from symmetry_robustness.engine.fusion import fuse

    fused, laid_out = fuse(network.requires_grad_(False), images), images.contiguous(memory_format=torch.channels_last)
    return lambda: loss_gradient(fused, laid_out, labels)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
