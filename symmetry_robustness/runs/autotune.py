"""How a network is computed fastest on the machine at hand: a few steps decide, and a job keeps what they found."""

import contextlib
import copy
import functools
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.accelerators import CUDAAccelerator
from torch import nn

from symmetry_robustness.attacks.base import loss_gradient
from symmetry_robustness.errors import one_line
from symmetry_robustness.files import lock
from symmetry_robustness.layers.disk_cache import cache_folder
from symmetry_robustness.layers.expansion_cache import frozen_weights
from symmetry_robustness.precision import computes_in_bfloat16
from symmetry_robustness.runs.json_files import read_mapping, write_json
from symmetry_robustness.runs.provenance import available_cores, environment, own_code, package_digest
from symmetry_robustness.runs.resume_state import random_states, restore_random_states
from symmetry_robustness.runs.settings import device_count
from symmetry_robustness.training import Classifier
from symmetry_robustness.training.objectives.base import run_update

log = logging.getLogger(__name__)

_SECONDS: Final = 2.0  # of one comparison
_ROUNDS: Final = 8  # the most of one comparison, behind one that is not counted
_GAIN: Final = 1.05  # by which a candidate must be faster than the default
_HOPELESS: Final = 1.5  # times the seconds of the fastest, from which on a candidate is not run again
_PATIENCE_S: Final = 600.0  # with the process that decides
_FEW: Final = 8  # images, on which a step is timed first


class ComputeSettings(NamedTuple):
    """How a network is computed.

    Args:
        precision: of Lightning's Trainer.
        channels_last: the memory format of images and weights.
        compile: whether torch.compile builds the network.
        threads: of the CPU; 0 for as many as torch has.
    """

    precision: str = "32-true"
    channels_last: bool = True
    compile: bool = False
    threads: int = 0

    def __str__(self) -> str:
        words = [self.precision, "channels last" if self.channels_last else "channels first"]
        words += ["compiled"] * self.compile + [f"{self.threads} threads"] * (self.threads > 0)
        return ", ".join(words)


Options = Mapping[str, Sequence[Any]]  # of fields: the values to choose from, the default first
Step = Callable[[], object]
Prepare = Callable[[ComputeSettings, int], Step]  # from a candidate and a number of images to a step
# Fields that are compared together, one comparison after the other; each starts from the fastest of the last.
_STAGES: Final = (("precision", "channels_last"), ("threads",), ("compile",))


class Tuned(NamedTuple):
    """The settings to compute in, and images per second of all that were measured; none where nothing was."""

    settings: ComputeSettings
    images_per_second: dict[str, float]

    def describe(self) -> str:
        """One line with the figures, those of the settings first."""
        rates = sorted(self.images_per_second.items(), key=lambda item: item[0] != str(self.settings))
        return "; ".join(f"{name}: {rate:,.0f} images/s" for name, rate in rates) or str(self.settings)


def tune(default: ComputeSettings, options: Options, prepare: Prepare, images: int, device: torch.device) -> Tuned:
    """Time the settings that options leave open, for some seconds; random states and threads are then as before.

    Candidates take turns, and the shortest step of each counts, so that a busy machine matters little. The default is
    left only for a candidate that is faster by a twentieth. One that fails does not take part.

    Args:
        default: the settings where nothing is gained by others.
        options: what may be chosen instead; the default's values are among them.
        prepare: makes steps, on what no job will use.
        images: of a step; fewer are taken where a step would last long.
        device: where the steps compute.
    """
    states, threads = random_states(device), torch.get_num_threads()
    best, rates = default, dict[str, float]()
    try:
        try:
            images = _affordable(prepare(default, min(_FEW, images)), images, device)
        except Exception as error:  # of the user's objects; the training will say it better
            log.debug("nothing is measured: %s", one_line(error))
            return Tuned(default, {})
        for names in _STAGES:
            values = itertools.product(*(options.get(name, (getattr(default, name),)) for name in names))
            candidates = dict.fromkeys(
                [best, *(best._replace(**dict(zip(names, value, strict=True))) for value in values)]
            )
            if len(candidates) > 1:
                seconds = _compare([*candidates], prepare, images, device)
                rates |= {str(candidate): images / time for candidate, time in seconds.items()}
                fastest = min(seconds, key=lambda candidate: seconds[candidate], default=best)
                if best not in seconds or seconds[best] > _GAIN * seconds[fastest]:
                    best = fastest
    finally:
        torch.set_num_threads(threads)
        restore_random_states(states, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Tuned(best, rates)


def _affordable(step: Step, images: int, device: torch.device) -> int:
    """So many images that a comparison stays within its time, by two steps of a few."""
    _timed(step, device)
    each = _timed(step, device) / min(_FEW, images)
    return max(
        min(_FEW, images), min(images, int(_SECONDS / (each * 8)))
    )  # about eight steps, of four candidates twice


def _compare(
    candidates: Sequence[ComputeSettings], prepare: Prepare, images: int, device: torch.device
) -> dict[ComputeSettings, float]:
    """Seconds of the shortest step of each candidate."""
    steps, found = dict[ComputeSettings, Step](), dict[ComputeSettings, float]()
    # On a single thread other processes of a busy machine need not count.
    alone = (
        device.type == "cpu" and torch.get_num_threads() == 1 and not any(candidate.threads for candidate in candidates)
    )
    clock = time.process_time if alone else time.perf_counter
    end = time.perf_counter() + _SECONDS
    for number in range(1 + _ROUNDS):
        for candidate in candidates:
            if number and (
                candidate not in steps or found.get(candidate, 0.0) > _HOPELESS * min(found.values(), default=0.0)
            ):
                continue
            if candidate.threads:
                torch.set_num_threads(candidate.threads)
            try:
                step = steps[candidate] if number else prepare(candidate, images)
                seconds = _timed(step, device, clock)
            except Exception as error:
                log.debug("%s: %s", candidate, one_line(error))
                steps.pop(candidate, None)
                found.pop(candidate, None)
                continue
            steps[candidate] = step
            if number:
                found[candidate] = min(seconds, found.get(candidate, seconds))
        if number and time.perf_counter() > end:
            break
    return found


def _timed(step: Step, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def tune_once(
    default: ComputeSettings,
    options: Options,
    prepare: Prepare,
    images: int,
    device: torch.device,
    about: Mapping[str, object],
) -> Tuned:
    """`tune`, once for each machine, code, network and number of images: the answer waits in the cache folder.

    Args:
        default: see `tune`.
        options: see `tune`.
        prepare: see `tune`.
        images: see `tune`.
        device: see `tune`.
        about: what is computed, as plain values.
    """
    machine = environment()
    key = {
        "hardware": machine["hardware"],
        "torch": machine["packages"]["torch"],
        "device": device.type,
        "threads": torch.get_num_threads(),
        "code": {"symmetry_robustness": package_digest(), **own_code()},
        "default": default,
        "options": options,
        "images": images,
        **about,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    path = cache_folder() / f"{digest[:32]}.json"
    with _one_at_a_time(path.with_suffix(".lock")):
        if tuned := read_tuned(read_mapping(path)):
            return tuned
        tuned = tune(default, options, prepare, images, device)
        if tuned.images_per_second:
            with contextlib.suppress(OSError):  # a cache that cannot be used costs time only
                write_json(path, plain_tuned(tuned))
    return tuned


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait for other jobs that measure the same: they neither disturb each other nor find different answers."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = lock(path, wait=lambda: None)
    except OSError:  # nobody waits where there are no locks
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def plain_tuned(tuned: Tuned) -> dict[str, Any]:
    """The settings found and their figures as a file has them."""
    return {**tuned.settings._asdict(), "images_per_second": tuned.images_per_second}


def read_tuned(content: Mapping[str, Any] | None) -> Tuned | None:
    """Inverse of `plain_tuned`; None where the content is something else."""
    content = content or {}
    try:
        settings = ComputeSettings(**{name: content[name] for name in ComputeSettings._fields})
        rates = {str(name): float(rate) for name, rate in content["images_per_second"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    kinds = [type(value) for value in settings]
    return (
        Tuned(settings, rates)
        if kinds == [type(value) for value in ComputeSettings()] and settings.threads >= 0
        else None
    )


def agreed(
    read: Callable[[], Tuned | None], decide: Callable[[], Tuned], *, decides: bool, patience: float = _PATIENCE_S
) -> Tuned:
    """The settings that all processes of a job use, also those that resume it: the first that one of them wrote.

    Args:
        read: what has been written; None as long as nothing has.
        decide: finds them and writes them.
        decides: whether this process is the one that does; others wait for it.
        patience: seconds, after which the others decide as well.
    """
    end = time.monotonic() + patience
    while (tuned := read()) is None and not decides and time.monotonic() < end:
        time.sleep(0.05)
    return tuned or decide()


def usual_threads(ranks: int) -> tuple[int, ...]:
    """Numbers of threads to choose from, the default first; no choice where it is stated, or several ranks share."""
    default, cores = torch.get_num_threads(), available_cores() or 1
    if ranks > 1 or "OMP_NUM_THREADS" in os.environ:
        return (0,)
    return tuple(dict.fromkeys((min(default, cores), max(1, cores // 2), 1))) if cores > 1 else (0,)


def tune_training(config: DictConfig, classifier: Classifier, batch_size: int, shape: Sequence[int]) -> Tuned:
    """How a job computes its training, as far as its settings leave it open.

    Args:
        config: of the job.
        classifier: to be trained, in float32; neither it nor any random state is changed.
        batch_size: images of a step, on all ranks together.
        shape: of an image, (C, H, W).
    """
    compute, trainer = config.compute, config.trainer
    ranks = (device_count(trainer.get("devices", "auto")) or 1) * trainer.get("num_nodes", 1)
    device = _device(trainer)
    precision = "32-true" if compute.precision == "auto" else compute.precision
    default = ComputeSettings(precision, compute.channels_last is not False, bool(compute.compile))
    if device is None:
        return Tuned(default, {})
    options: dict[str, Sequence[Any]] = {}
    if compute.precision == "auto" and computes_in_bfloat16(device):
        options["precision"] = ("32-true", "bf16-mixed")
    if compute.channels_last is None:
        options["channels_last"] = (True, False)
    differentiable = getattr(classifier.objective, "second_derivatives", None) is None
    if compute.compile is None and device.type == "cuda" and differentiable and not trainer.get("sync_batchnorm"):
        options["compile"] = (False, True)
    if device.type == "cpu" and len(threads := usual_threads(ranks)) > 1:
        options["threads"], default = threads, default._replace(threads=threads[0])
    if not options:
        return Tuned(default, {})
    about: dict[str, object] = {
        name: OmegaConf.to_container(config[name]) for name in ("model", "objective", "optimizer")
    }
    about["shape"] = list(shape)
    images = max(1, batch_size // ranks)
    return tune_once(default, options, training_steps(classifier, shape, device), images, device, about)


def _device(trainer: DictConfig) -> torch.device | None:
    """Where the first rank trains; None where nothing is known of the device."""
    accelerator = trainer.get("accelerator", "auto")
    if accelerator == "cpu" or (accelerator == "auto" and not _any_gpu()):
        return torch.device("cpu")
    if accelerator == "mps" or not torch.cuda.is_available():
        return None
    return torch.device("cuda", (CUDAAccelerator.parse_devices(trainer.get("devices", 1)) or [0])[0])


def _any_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def training_steps(classifier: Classifier, shape: Sequence[int], device: torch.device) -> Prepare:
    """Steps of a training, forwards, backwards and of the optimiser, on copies of its network.

    Args:
        classifier: see `tune_training`.
        shape: see `tune_training`.
        device: where the steps compute.
    """

    @functools.cache
    def training(channels_last: bool, compiled: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        layout = _layout(channels_last)
        network = copy.deepcopy(classifier.network).to(device, memory_format=layout).train()  # type: ignore[call-overload]
        if compiled:
            network.compile()
        return network, classifier.make_optimizer(network.parameters())

    def prepare(settings: ComputeSettings, count: int) -> Step:
        network, optimizer = training(settings.channels_last, settings.compile)
        objective = copy.deepcopy(classifier.objective)
        if isinstance(objective, nn.Module):
            objective.to(device)
        images, labels = _images(count, shape, device)
        images = images.contiguous(memory_format=_layout(settings.channels_last))
        low = settings.precision != "32-true"
        dtype = torch.float16 if settings.precision == "16-mixed" else torch.bfloat16

        def learn() -> None:
            with torch.autocast(device.type, dtype, enabled=low), frozen_weights(object()):
                loss = objective(network, images, labels)[0]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return lambda: run_update(objective, network, learn)

    return prepare


def tune_attacks(network: nn.Module, batch_size: int, shape: Sequence[int], device: torch.device) -> Tuned:
    """The settings in which an evaluation attacks: memory format and threads; the precision is float32 for all.

    Args:
        network: in evaluation mode, on its device; neither it nor any random state is changed.
        batch_size: images of a pass.
        shape: of an image, (C, H, W).
        device: of the network.
    """
    laid_out = any(not p.is_contiguous() for p in network.parameters())
    default = ComputeSettings(channels_last=laid_out)
    options: dict[str, Sequence[Any]] = {"channels_last": (True, False)} if laid_out else {}
    if device.type == "cpu" and len(threads := usual_threads(1)) > 1:
        options["threads"], default = threads, default._replace(threads=threads[0])
    if not options:
        return Tuned(default, {})

    @functools.cache
    def laid(channels_last: bool) -> nn.Module:
        copied: nn.Module = copy.deepcopy(network).to(memory_format=_layout(channels_last))  # type: ignore[call-overload]
        return copied

    def prepare(settings: ComputeSettings, count: int) -> Step:
        images, labels = _images(count, shape, device)
        return lambda: loss_gradient(laid(settings.channels_last), images, labels)

    state = [(name, list(value.shape)) for name, value in network.state_dict().items()]
    return tune_once(
        default, options, prepare, batch_size, device, {"network": str(network), "state": state, "shape": list(shape)}
    )


def _images(count: int, shape: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in [0, 1], all of the first class; no global generator is asked."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    return images.to(device), torch.zeros(count, dtype=torch.int64, device=device)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def lay_out_as(network: nn.Module, settings: ComputeSettings) -> None:
    """Bring a network's weights into the memory format of a settings."""
    network.to(memory_format=_layout(settings.channels_last))  # type: ignore[call-overload]


@contextlib.contextmanager
def computing_in(threads: int) -> Iterator[None]:
    """Compute with a number of threads, but no more than there are cores; 0 for as many as before."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(min(threads, available_cores() or threads))
    try:
        yield
    finally:
        if threads:
            torch.set_num_threads(before)
