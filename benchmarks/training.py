"""Training throughput against a plain loop and the best bare loop, on the same data, each in processes of its own.

The plain loop is what a hand-written script does: float32, channels first, escnn's own layers, Adam, the loss read back
after every batch. Per-sample transforms are left out on both sides: batches come from tensors in memory. The bare loop
trains the project's own network, with nothing around it, in the best of both precisions and both memory formats.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.alone import alone
from benchmarks.fit import prepare
from benchmarks.peak import columns, count, peak
from symmetry_robustness import build_network, load_config
from symmetry_robustness.layers.basis import planar_escnn
from symmetry_robustness.precision import computes_in_bfloat16
from symmetry_robustness.runs.autotune import ComputeSettings
from symmetry_robustness.runs.process import keep_freed_memory

BATCH_SIZE = 128


class Plain(nn.Module):
    """A network written by hand: a stem in escnn's or torch's layers, then the convolutions of a configured trunk."""

    def __init__(self, stem: nn.Module, channels: int, trunk: list[int | str], num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for entry in trunk:
            if entry == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, int(entry), 3, padding=1), nn.BatchNorm2d(int(entry)), nn.ReLU()]
                channels = int(entry)
        self.stem = stem
        self.trunk = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(self.stem((images - 0.5) / 0.5))


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Rotation(nn.Module):
    """escnn's convolution of C4 into 16 regular fields, wrapped and unwrapped as its documentation shows."""

    def __init__(self, inputs: int | None) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with planar_escnn():
                from escnn import gspaces
                from escnn import nn as enn

            space = gspaces.rot2dOnR2(4)
            regular = enn.FieldType(space, 16 * [space.regular_repr])
            self.type = regular if inputs is None else enn.FieldType(space, inputs * [space.trivial_repr])
            self.wrap = enn.GeometricTensor
            self.convolution = enn.R2Conv(self.type, regular, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(self.wrap(images, self.type)).tensor


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.standard, self.rotation = convolution(3, 16), Rotation(3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.standard(images), self.rotation(images)], dim=1)


def plain_network(name: str, trunk: list[int | str]) -> nn.Module:
    """The hand-written counterpart of a released network."""
    name = name.removesuffix("_4layer")
    if name == "standard":
        return Plain(convolution(3, 16), 16, trunk, 10)
    if name == "parallel_rotation":
        return Plain(Parallel(), 80, trunk, 10)
    return Plain(nn.Sequential(convolution(3, 64), Rotation(None), nn.ReLU()), 64, trunk, 10)


def plain_fit(name: str, images: Tensor, labels: Tensor, device: str) -> float:
    """Seconds for one pass of the hand-written counterpart of a network, after a warm-up."""
    network = plain_network(name, list(load_config("train", [f"model={name}"]).model.trunk)).train().to(device)
    plain_loop(network, images[: 2 * BATCH_SIZE], labels[: 2 * BATCH_SIZE], device)
    return plain_loop(network, images, labels, device)


def plain_loop(network: nn.Module, images: Tensor, labels: Tensor, device: str) -> float:
    """Seconds for one pass."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    start, running_loss = time.perf_counter(), 0.0
    for batch, targets in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        inputs, targets = (batch.float() / 255).to(device), targets.to(device)
        optimizer.zero_grad()
        loss = criterion(network(inputs), targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return time.perf_counter() - start


def bare_step(name: str, compute: ComputeSettings, images: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A step of the project's own network and nothing else, on rows of the images; it returns the loss."""
    layout = torch.channels_last if compute.channels_last else torch.contiguous_format
    network = build_network(load_config("train", [f"model={name}"])).train().to(images.device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step(rows: Tensor) -> Tensor:
        batch = (images[rows].float() / 255).contiguous(memory_format=layout)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=compute.precision != "32-true"):
            loss = nn.functional.cross_entropy(network(batch), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def bare_fits(name: str, candidates: Sequence[ComputeSettings], images: Tensor, labels: Tensor) -> list[float]:
    """Seconds of one pass with each; they take turns batch by batch, after a warm-up."""
    keep_freed_memory()
    steps = [bare_step(name, compute, images, labels) for compute in candidates]
    batches = torch.randperm(len(images)).split(BATCH_SIZE)
    for step in steps:
        step(batches[0])
    seconds = [0.0] * len(candidates)
    for rows in batches:
        for place, step in enumerate(steps):
            start = time.perf_counter()
            step(rows)
            if images.is_cuda:
                torch.cuda.synchronize()
            seconds[place] += time.perf_counter() - start
    return seconds


def bare_candidates(device: str) -> list[ComputeSettings]:
    """All settings in which a bare loop may compute."""
    low = ["bf16-mixed"] if computes_in_bfloat16(torch.device(device)) else []
    return [
        ComputeSettings(precision, channels_last) for precision in ("32-true", *low) for channels_last in (True, False)
    ]


def our_fit(name: str, images: Tensor, device: str) -> float:
    """Seconds for one epoch of the project's own Trainer, data module and settings, without validation."""
    return prepare(name, device, "data.validation_size=0", f"data.train_size={len(images)}").run(1, [])


# Batches per epoch on a CPU: some seconds of training each, so that what an epoch costs once does not count much.
BATCHES = {
    "standard": 64,
    "parallel_rotation": 20,
    "cascaded": 12,
    "standard_4layer": 96,
    "parallel_rotation_4layer": 32,
}


def run(device: str = "cpu", batches: dict[str, int] = BATCHES, times: int = 3) -> list[dict[str, float | str]]:
    """Images per second of all three, interleaved, per network; ratios and the share of the peak are what counts."""
    rows: list[dict[str, float | str]] = []
    for name, number in batches.items():
        size = BATCH_SIZE * number * (20 if device == "cuda" else 1)
        images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(0, 10, (size,))
        tried = max(BATCH_SIZE, size // 4)
        candidates = bare_candidates(device)
        seconds = alone(bare_fits, name, candidates, images[:tried], labels[:tried], device=device).result
        best = candidates[seconds.index(min(seconds))]
        ours, plain, bare, peaks = [], [], [], []
        for _ in range(times):
            plain.append(size / alone(plain_fit, name, images, labels, device).result)
            ours.append(size / alone(our_fit, name, images, device).result)
            bare.append(size / alone(bare_fits, name, [best], images, labels, device=device).result[0])
            peaks.append(peak(device, best.precision))
        own, reference, limit = (statistics.median(found) for found in (ours, plain, bare))
        few = images[:BATCH_SIZE].to(device), labels[:BATCH_SIZE].to(device)
        step, all_rows = bare_step(name, best, *few), torch.arange(BATCH_SIZE)
        flops = count(lambda: step(all_rows)) / BATCH_SIZE  # noqa: B023 - called at once
        rows.append(
            {
                "network": name,
                "plain images/s": reference,
                "ours images/s": own,
                "ratio": own / reference,
                "best bare images/s": limit,
                "in": str(best),
                "ours / best bare": own / limit,
                **columns(flops, 1 / own, max(peaks), lambda: step(all_rows), device),  # noqa: B023 - called at once
            }
        )
    return rows
