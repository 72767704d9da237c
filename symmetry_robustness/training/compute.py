"""Settings that depend on the device a run lands on."""

import torch


def fastest_precision(accelerator: str) -> str:
    """The Trainer precision that measured fastest: bfloat16 autocast where the device computes in it natively.

    A CPU without bfloat16 instructions emulates them and is slower than in float32.
    """
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("amx_tile"))
    return "bf16-mixed" if native else "32-true"
