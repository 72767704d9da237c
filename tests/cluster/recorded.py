"""An optimiser that tells each step, can take its time, and can end its process; jobs find it through PYTHONPATH."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class SGD(torch.optim.SGD):
    """Plain SGD, and for each step a line in the file `record-RANK`: how often Slurm started the job, the gradients.

    Args:
        params: as in SGD.
        lr: as in SGD.
        momentum: as in SGD.
        record: beginning of the file's name.
        pace: seconds added to each step.
        gate: file without which no step ends; None for none.
        end: how the first step of the last rank ends, "raise" or "kill"; None for well.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        record: str,
        pace: float = 0,
        gate: str | None = None,
        end: str | None = None,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum)
        self._record = Path(f"{record}-{os.environ['SLURM_PROCID']}")
        last = int(os.environ["SLURM_PROCID"]) == int(os.environ["SLURM_NTASKS"]) - 1
        self._pace, self._end = pace, end if last else None
        self._gate = None if gate is None else Path(gate)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = super().step(closure)
        if self._end == "raise":
            raise RuntimeError("the planted error")
        if self._end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        gradients: list[Tensor] = [p.grad for group in self.param_groups for p in group["params"]]
        digest = hashlib.sha256(b"".join(gradient.numpy().tobytes() for gradient in gradients)).hexdigest()
        with self._record.open("a") as file:
            file.write(f"{os.environ.get('SLURM_RESTART_COUNT', '0')} {digest}\n")
        time.sleep(self._pace)
        while self._gate is not None and not self._gate.exists():
            time.sleep(0.1)
        return loss
