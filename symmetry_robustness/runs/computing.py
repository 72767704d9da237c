"""How a network is computed fastest on the machine at hand: a few steps decide, and a job keeps the answer."""

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
from typing import Any, Final, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.accelerators import CUDAAccelerator
from torch import nn

from symmetry_robustness.attacks.base import loss_gradient
from symmetry_robustness.errors import one_line
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

_SECONDS: Final = 2.0  # of one race
_ROUNDS: Final = 8  # the most of one race, behind one that is not counted
_GAIN: Final = 1.05  # by which another way must be faster than the usual one
_HOPELESS: Final = 1.5  # times the fastest way's seconds, after which a way is not run again
_PATIENCE_S: Final = 600.0  # with the process that decides
_FEW: Final = 8  # images, on which a step is timed first


class Way(NamedTuple):
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


Options = Mapping[str, Sequence[Any]]  # of fields of a way: the values to choose from, the usual one first
Step = Callable[[], object]
Prepare = Callable[[Way, int], Step]  # from a way and a number of images to a step
# Fields that are raced together, one race after the other; each starts from the winner of the last.
_RACES: Final = (("precision", "channels_last"), ("threads",), ("compile",))


class Answer(NamedTuple):
    """The fastest way, and images per second of all that were measured; none where nothing was."""

    way: Way
    images_per_second: dict[str, float]

    def describe(self) -> str:
        """One line with the figures, the fastest first."""
        rates = sorted(self.images_per_second.items(), key=lambda item: item[0] != str(self.way))
        return "; ".join(f"{name}: {rate:,.0f} images/s" for name, rate in rates) or str(self.way)


def measure(usual: Way, options: Options, prepare: Prepare, images: int, device: torch.device) -> Answer:
    """Race the ways that options leave open, for some seconds; all random states and the threads are then as before.

    Ways take turns, and the shortest step of each counts, so that a busy machine matters little. The usual way is
    left only for one that is faster by a twentieth. A way that fails does not take part.

    Args:
        usual: the way where nothing is gained by another.
        options: what may be chosen instead; the usual values are among them.
        prepare: makes steps, on what no job will use.
        images: of a step; fewer are taken where a step would last long.
        device: where the steps compute.
    """
    states, threads = random_states(device), torch.get_num_threads()
    best, rates = usual, dict[str, float]()
    try:
        try:
            images = _affordable(prepare(usual, min(_FEW, images)), images, device)
        except Exception as error:  # of the user's objects; the training will say it better
            log.debug("nothing is measured: %s", one_line(error))
            return Answer(usual, {})
        for names in _RACES:
            values = itertools.product(*(options.get(name, (getattr(usual, name),)) for name in names))
            ways = dict.fromkeys([best, *(best._replace(**dict(zip(names, value, strict=True))) for value in values)])
            if len(ways) > 1:
                seconds = _race([*ways], prepare, images, device)
                rates |= {str(way): images / time for way, time in seconds.items()}
                fastest = min(seconds, key=lambda way: seconds[way], default=best)
                if best not in seconds or seconds[best] > _GAIN * seconds[fastest]:
                    best = fastest
    finally:
        torch.set_num_threads(threads)
        restore_random_states(states, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Answer(best, rates)


def _affordable(step: Step, images: int, device: torch.device) -> int:
    """So many images that a race stays within its time, by two steps of a few."""
    _timed(step, device)
    each = _timed(step, device) / min(_FEW, images)
    return max(min(_FEW, images), min(images, int(_SECONDS / (each * 8))))  # about eight steps, of four ways twice


def _race(ways: Sequence[Way], prepare: Prepare, images: int, device: torch.device) -> dict[Way, float]:
    """Seconds of the shortest step of each way."""
    steps, found = dict[Way, Step](), dict[Way, float]()
    # On a single thread other processes of a busy machine need not count.
    alone = device.type == "cpu" and torch.get_num_threads() == 1 and not any(way.threads for way in ways)
    clock = time.process_time if alone else time.perf_counter
    end = time.perf_counter() + _SECONDS
    for number in range(1 + _ROUNDS):
        for way in ways:
            if number and (way not in steps or found.get(way, 0.0) > _HOPELESS * min(found.values(), default=0.0)):
                continue
            if way.threads:
                torch.set_num_threads(way.threads)
            try:
                step = steps[way] if number else prepare(way, images)
                seconds = _timed(step, device, clock)
            except Exception as error:
                log.debug("%s: %s", way, one_line(error))
                steps.pop(way, None)
                found.pop(way, None)
                continue
            steps[way] = step
            if number:
                found[way] = min(seconds, found.get(way, seconds))
        if number and time.perf_counter() > end:
            break
    return found


def _timed(step: Step, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def remembered(
    usual: Way, options: Options, prepare: Prepare, images: int, device: torch.device, about: Mapping[str, object]
) -> Answer:
    """`measure`, once for each machine, code, network and number of images: the answer waits in the cache folder.

    Args:
        usual: see `measure`.
        options: see `measure`.
        prepare: see `measure`.
        images: see `measure`.
        device: see `measure`.
        about: what is computed, as plain values.
    """
    machine = environment()
    key = {
        "hardware": machine["hardware"],
        "torch": machine["packages"]["torch"],
        "device": device.type,
        "threads": torch.get_num_threads(),
        "code": {"symmetry_robustness": package_digest(), **own_code()},
        "usual": usual,
        "options": options,
        "images": images,
        **about,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    path = cache_folder() / f"{digest[:32]}.json"
    if answer := read_answer(read_mapping(path)):
        return answer
    answer = measure(usual, options, prepare, images, device)
    if answer.images_per_second:
        with contextlib.suppress(OSError):  # a cache that cannot be used costs time only
            write_json(path, plain_answer(answer))
    return answer


def plain_answer(answer: Answer) -> dict[str, Any]:
    """The answer as a file has it."""
    return {**answer.way._asdict(), "images_per_second": answer.images_per_second}


def read_answer(content: Mapping[str, Any] | None) -> Answer | None:
    """The answer of `plain_answer`; None where it is none."""
    content = content or {}
    try:
        way = Way(**{name: content[name] for name in Way._fields})
        rates = {str(name): float(rate) for name, rate in content["images_per_second"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    kinds = [type(value) for value in way]
    return Answer(way, rates) if kinds == [type(value) for value in Way()] and way.threads >= 0 else None


def agreed(
    read: Callable[[], Answer | None], decide: Callable[[], Answer], *, decides: bool, patience: float = _PATIENCE_S
) -> Answer:
    """The answer that all processes of a job use, also those that resume it: the first that one of them wrote.

    Args:
        read: what has been written; None as long as nothing has.
        decide: finds an answer and writes it.
        decides: whether this process is the one that does; others wait for it.
        patience: seconds, after which the others decide as well.
    """
    end = time.monotonic() + patience
    while (answer := read()) is None and not decides and time.monotonic() < end:
        time.sleep(0.05)
    return answer or decide()


def usual_threads(ranks: int) -> tuple[int, ...]:
    """Numbers of threads to choose from, the usual one first; no choice where it is stated, or several ranks share."""
    usual, cores = torch.get_num_threads(), available_cores() or 1
    if ranks > 1 or "OMP_NUM_THREADS" in os.environ:
        return (0,)
    return tuple(dict.fromkeys((min(usual, cores), max(1, cores // 2), 1))) if cores > 1 else (0,)


def settle_training(config: DictConfig, classifier: Classifier, batch_size: int, shape: Sequence[int]) -> Answer:
    """The way in which a job trains, as far as its settings leave it open.

    Args:
        config: of the job.
        classifier: to be trained, in float32; neither it nor any random state is changed.
        batch_size: images of a step, on all ranks together.
        shape: of an image, (C, H, W).
    """
    compute, trainer = config.compute, config.trainer
    ranks = (device_count(trainer.get("devices", "auto")) or 1) * trainer.get("num_nodes", 1)
    device = _device(trainer)
    usual = Way("32-true" if compute.precision == "auto" else compute.precision, compute.channels_last is not False,
                bool(compute.compile))  # fmt: skip
    if device is None:
        return Answer(usual, {})
    options: dict[str, Sequence[Any]] = {}
    if compute.precision == "auto" and computes_in_bfloat16(device):
        options["precision"] = ("32-true", "bf16-mixed")
    if compute.channels_last is None:
        options["channels_last"] = (True, False)
    differentiable = getattr(classifier.objective, "second_derivatives", None) is None
    if compute.compile is None and device.type == "cuda" and differentiable and not trainer.get("sync_batchnorm"):
        options["compile"] = (False, True)
    if device.type == "cpu" and len(threads := usual_threads(ranks)) > 1:
        options["threads"], usual = threads, usual._replace(threads=threads[0])
    if not options:
        return Answer(usual, {})
    about = {name: OmegaConf.to_container(config[name]) for name in ("model", "objective", "optimizer")}
    images = max(1, batch_size // ranks)
    return remembered(usual, options, training_steps(classifier, shape, device), images, device, about)


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
        classifier: see `settle_training`.
        shape: see `settle_training`.
        device: where the steps compute.
    """

    @functools.cache
    def training(channels_last: bool, compiled: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        layout = _layout(channels_last)
        network = copy.deepcopy(classifier.network).to(device, memory_format=layout).train()  # type: ignore[call-overload]
        if compiled:
            network.compile()
        return network, classifier.make_optimizer(network.parameters())

    def prepare(way: Way, count: int) -> Step:
        network, optimizer = training(way.channels_last, way.compile)
        objective = copy.deepcopy(classifier.objective)
        if isinstance(objective, nn.Module):
            objective.to(device)
        images, labels = _images(count, shape, device)
        images = images.contiguous(memory_format=_layout(way.channels_last))
        low = way.precision != "32-true"
        dtype = torch.float16 if way.precision == "16-mixed" else torch.bfloat16

        def learn() -> None:
            with torch.autocast(device.type, dtype, enabled=low), frozen_weights(object()):
                loss, _ = objective(network, images, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return lambda: run_update(objective, network, learn)

    return prepare


def settle_attacks(network: nn.Module, batch_size: int, shape: Sequence[int], device: torch.device) -> Answer:
    """The way in which an evaluation attacks: memory format and threads; the precision is float32 for all.

    Args:
        network: in evaluation mode, on its device; neither it nor any random state is changed.
        batch_size: images of a pass.
        shape: of an image, (C, H, W).
        device: of the network.
    """
    laid_out = any(not p.is_contiguous() for p in network.parameters())
    usual = Way(channels_last=laid_out)
    options: dict[str, Sequence[Any]] = {"channels_last": (True, False)} if laid_out else {}
    if device.type == "cpu" and len(threads := usual_threads(1)) > 1:
        options["threads"], usual = threads, usual._replace(threads=threads[0])
    if not options:
        return Answer(usual, {})

    @functools.cache
    def laid(channels_last: bool) -> nn.Module:
        copied: nn.Module = copy.deepcopy(network).to(memory_format=_layout(channels_last))  # type: ignore[call-overload]
        return copied

    def prepare(way: Way, count: int) -> Step:
        images, labels = _images(count, shape, device)
        return lambda: loss_gradient(laid(way.channels_last), images, labels)

    state = [(name, list(value.shape)) for name, value in network.state_dict().items()]
    return remembered(usual, options, prepare, batch_size, device, {"network": str(network), "state": state})


def _images(count: int, shape: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in [0, 1], all of the first class; no global generator is asked."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    return images.to(device), torch.zeros(count, dtype=torch.int64, device=device)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def lay_out_as(network: nn.Module, way: Way) -> None:
    """Bring a network's weights into the memory format of a way."""
    network.to(memory_format=_layout(way.channels_last))  # type: ignore[call-overload]


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
