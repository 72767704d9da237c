"""Whether a device computes in bfloat16, and IEEE float32 for everything that is measured."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import torch

# Torch settings of the precision inside of float32 convolutions and products, and their values that mean exact.
_backends: Any = torch.backends
_PLACES: Final = (
    _backends.cudnn.conv,
    _backends.cudnn.rnn,
    _backends.cuda.matmul,
    _backends.mkldnn.conv,
    _backends.mkldnn.matmul,
)
_EXACT: Final = ("ieee", "none")


@contextlib.contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Compute in float32 as IEEE 754 has it: without autocast, TF32 or bfloat16 inside of convolutions and products.

    TF32, torch's default for convolutions on GPUs, keeps 11 bits of inputs: a bright pixel moves in steps of 1/2048.
    Emulated, it changed an invariant network's logits under a quarter turn a thousand times as much as float32.

    Args:
        device: where the network is.
    """
    with torch.autocast(device.type, enabled=False), _exact():
        yield


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    before = [place.fp32_precision for place in _PLACES]
    if all(precision in _EXACT for precision in before):
        yield
        return
    older = _older_switches()
    try:
        if older:  # torch refuses to read these where only the newer ones were set
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        for place in _PLACES:
            if place.fp32_precision not in _EXACT:
                place.fp32_precision = "ieee"
        yield
    finally:
        if older:
            torch.backends.cudnn.allow_tf32, precision = older
            torch.set_float32_matmul_precision(precision)
        for place, precision in zip(_PLACES, before, strict=True):
            if place.fp32_precision != precision:
                place.fp32_precision = precision


def _older_switches() -> tuple[bool, str] | None:
    """Whether cuDNN may use TF32 and the precision of products, None where the newer switches have been used."""
    try:
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; where they are emulated, float32 is faster.

    Args:
        device: a GPU or the CPU.
    """
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("amx_tile"))
