"""Cost of rotation layers: against plain convolutions of the same expanded widths, and to build.

Both networks take turns, so that a busy machine slows both; medians, and CPU seconds where the device is a CPU.
The first build finds neither our cache nor that of escnn; each build has a process of its own.
"""

import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness import build_network, load_config
from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.models import export

BATCH_SIZE = 64  # that of the released fully equivariant script
ROUNDS = 5
# Networks whose every layer has a plain counterpart of the same cost: vectors have none.
COMPARED = ("cascaded", "parallel_rotation_scale", "fully_equivariant_4layer", "fully_equivariant", "invariant_d4")
BUILT = (*COMPARED, "parallel_rotation", "weighted", "fully_equivariant_matched", "invariant", "invariant_vector")
LARGEST = "model.group=D8"  # the group with the dearest basis

BUILD = """
import sys, time
import joblib
memory = joblib.Memory
joblib.Memory = lambda location, **settings: memory(sys.argv[1], **settings)
from symmetry_robustness import build_network, load_config
config = load_config("train", sys.argv[2:])
start = time.perf_counter()
build_network(config)
print(time.perf_counter() - start)
"""


def plain(module: nn.Module) -> nn.Module:
    """A copy in which plain layers of the same expanded widths stand for rotation layers."""
    if isinstance(module, RotationConv):
        kernel = module.expand()[0]
        return nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], padding=kernel.shape[2] // 2)
    if isinstance(module, InnerBatchNorm):
        return nn.BatchNorm2d(module.norm.num_features * module.order)
    module = copy.copy(module)
    module._modules = {name: plain(child) for name, child in module._modules.items() if child is not None}
    return copy.deepcopy(module)


def seconds(work: Callable[[], object], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def ratio(ours: Callable[[], object], reference: Callable[[], object], device: str, rounds: int = ROUNDS) -> float:
    """Median of ours over median of the reference, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for work, found in zip((ours, reference), times, strict=True):
            duration = seconds(work, device)
            if number:  # the first is the warm-up
                found.append(duration)
    return statistics.median(times[0]) / statistics.median(times[1])


def training_step(network: nn.Module, images: Tensor, labels: Tensor, bfloat16: bool) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def evaluation(network: nn.Module, images: Tensor) -> Callable[[], None]:
    network.eval()

    def evaluate() -> None:
        with torch.no_grad():
            network(images)

    return evaluate


def cost(name: str, device: str) -> dict[str, float]:
    network = build_network(load_config("train", [f"model={name}"]))
    rotation, reference = (part.to(device, memory_format=torch.channels_last) for part in (network, plain(network)))
    images = torch.rand(BATCH_SIZE, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH_SIZE,), device=device)
    found = {}
    for precision in ("float32", "bfloat16"):
        steps = [training_step(part, images, labels, precision == "bfloat16") for part in (rotation, reference)]
        found[f"training, {precision}"] = ratio(*steps, device)
    for label, ours in {"evaluation": rotation, "evaluation, exported": export(rotation)}.items():
        found[label] = ratio(evaluation(ours, images), evaluation(reference, images), device)
    return found


def build_seconds(overrides: list[str]) -> dict[str, float]:
    """Seconds to build a network the first time ever, and in the next process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-c", BUILD, f"{folder}/escnn", *overrides]
        environment = {**os.environ, "SYMMETRY_ROBUSTNESS_CACHE": f"{folder}/ours"}
        cold, warm = (
            float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)
            for _ in range(2)
        )
    return {"first build, s": cold, "next build, s": warm}


def run(device: str = "cpu") -> list[dict[str, float | str]]:
    """A row per network: ratios to plain convolutions, and seconds to build."""
    rows: list[dict[str, float | str]] = []
    columns = ("training, float32", "training, bfloat16", "evaluation", "evaluation, exported")
    for name in BUILT:
        ratios = cost(name, device) if name in COMPARED else dict.fromkeys(columns, "")
        rows.append({"network": name, **ratios, **build_seconds([f"model={name}"])})
    for network in ("invariant", "fully_equivariant_4layer"):
        seconds_of_largest = build_seconds([f"model={network}", LARGEST])
        rows.append({"network": f"{network}, D8", **dict.fromkeys(columns, ""), **seconds_of_largest})
    return rows
