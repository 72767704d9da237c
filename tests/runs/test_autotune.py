"""Measurements leave no trace, are kept, and are the same for all processes of a job."""

import copy
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from symmetry_robustness import load_config
from symmetry_robustness.runs import autotune
from symmetry_robustness.runs.autotune import (
    ComputeSettings,
    Tuned,
    agreed,
    computing_in,
    plain_tuned,
    read_tuned,
    training_steps,
    tune,
    tune_attacks,
    tune_once,
    tune_training,
)
from symmetry_robustness.runs.directory import create_run
from symmetry_robustness.runs.provenance import read_provenance
from symmetry_robustness.runs.train import build_classifier, settle
from symmetry_robustness.training import Classifier

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
OPEN = {"precision": ("32-true", "bf16-mixed"), "channels_last": (True, False)}


def job(*settings: str) -> tuple[DictConfig, Any, Classifier]:
    """The configuration, the data and the network of a small job."""
    config = load_config(
        "train", ["model=parallel_rotation_4layer", "data.train_size=64", "data.batch_size=8", *settings]
    )
    datamodule = instantiate(config.data)
    return config, datamodule, build_classifier(config, datamodule)


def states() -> list[Any]:
    """Everything global that a step might change."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    switches = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    return [torch.get_rng_state().tolist(), random.getstate(), keys.tolist(), rest, switches]


def contents(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


class Careless:
    """An objective that draws from every generator, counts its calls and leaves the network in evaluation mode."""

    calls = 0

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        random.random()
        noise = torch.rand_like(images) * np.random.rand()  # noqa: NPY002
        logits = network.train()(images + noise)
        network.eval()
        return nn.functional.cross_entropy(logits, labels), logits


def test_nothing_is_changed_by_a_measurement() -> None:
    _, _, classifier = job()
    classifier.network = nn.Sequential(classifier.network, nn.Dropout(0.5)).train()
    classifier.objective = Careless()
    before, network = states(), contents(classifier.network)
    steps = training_steps(classifier, SHAPE, CPU)
    tuned = tune(ComputeSettings(threads=1), {**OPEN, "threads": (1, 2)}, steps, 8, CPU)
    assert len(tuned.images_per_second) == 5  # two precisions in two formats, and another number of threads
    assert states() == before
    after = contents(classifier.network)
    assert [*after] == [*network]
    assert all(torch.equal(after[name], network[name]) for name in network)
    assert all(layer.training for layer in classifier.network.modules())
    assert all(parameter.grad is None for parameter in classifier.network.parameters())
    assert all(p.is_contiguous(memory_format=torch.contiguous_format) for p in classifier.network.parameters())
    assert classifier.objective.calls == 0


def test_the_steps_are_those_of_a_training() -> None:
    """Each settings's step moves every weight of its copy, in the precision and format that it names."""
    _, _, classifier = job()
    seen: list[tuple[torch.dtype, bool]] = []
    moved: list[nn.Module] = []

    def note(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(images)
        seen.append((logits.dtype, images.is_contiguous(memory_format=torch.channels_last)))
        moved.append(network)
        return nn.functional.cross_entropy(logits, labels), logits

    classifier.objective = note
    steps = training_steps(classifier, SHAPE, CPU)
    for settings in (ComputeSettings(), ComputeSettings("bf16-mixed"), ComputeSettings(channels_last=False)):
        steps(settings, 4)()
    assert seen == [(torch.float32, True), (torch.bfloat16, True), (torch.float32, False)]
    for network in moved:
        pairs = zip(network.parameters(), classifier.network.parameters(), strict=True)
        assert all(not torch.equal(own, original) for own, original in pairs)


def prepare_of(work: Callable[[ComputeSettings], int]) -> autotune.Prepare:
    """Steps that multiply matrices as often as a function of the settings says."""
    matrix = torch.rand(200, 200)

    def prepare(settings: ComputeSettings, images: int) -> autotune.Step:
        return lambda: [matrix @ matrix for _ in range(work(settings))]

    return prepare


def test_the_fastest_candidate_wins_and_failing_ones_do_not_take_part() -> None:
    def work(settings: ComputeSettings) -> int:
        if not settings.channels_last:
            raise RuntimeError("this network views features as rows")
        return 1 if settings.precision == "bf16-mixed" else 200

    tuned = tune(ComputeSettings(), OPEN, prepare_of(work), 8, CPU)
    assert tuned.settings == ComputeSettings("bf16-mixed")
    assert set(tuned.images_per_second) == {"32-true, channels last", "bf16-mixed, channels last"}
    assert tuned.describe().startswith("bf16-mixed, channels last: ")


def test_the_default_stays_where_it_is_as_fast_and_where_nothing_can_be_measured() -> None:
    def fail(settings: ComputeSettings) -> int:
        raise RuntimeError("no such thing")

    faster = tune(
        ComputeSettings(), OPEN, prepare_of(lambda settings: 200 if settings != ComputeSettings() else 1), 8, CPU
    )
    assert faster.settings == ComputeSettings()
    assert tune(ComputeSettings(), OPEN, prepare_of(fail), 8, CPU) == Tuned(ComputeSettings(), {})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMMETRY_ROBUSTNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_answer_is_kept_for_its_network_and_its_batch(cache: Path) -> None:
    prepared: list[int] = []

    def prepare(settings: ComputeSettings, images: int) -> autotune.Step:
        prepared.append(images)
        return lambda: None

    first = tune_once(ComputeSettings(), OPEN, prepare, 64, CPU, {"model": "a"})
    count = len(prepared)
    assert tune_once(ComputeSettings(), OPEN, prepare, 64, CPU, {"model": "a"}) == first
    assert len(prepared) == count
    for changes in ({"images": 32}, {"about": {"model": "b"}}):
        before = len(prepared)
        settings: dict[str, Any] = {"images": 64, "about": {"model": "a"}, **changes}
        tune_once(ComputeSettings(), OPEN, prepare, settings["images"], CPU, settings["about"])
        assert len(prepared) > before
    for file in cache.glob("*.json"):
        file.write_text('{"precision": "8-bit"}')
    before = len(prepared)
    tune_once(ComputeSettings(), OPEN, prepare, 64, CPU, {"model": "a"})
    assert len(prepared) > before


def test_jobs_that_start_together_measure_once(cache: Path) -> None:
    together, measuring = threading.Barrier(2), set[int]()

    def prepare(settings: ComputeSettings, images: int) -> autotune.Step:
        measuring.add(threading.get_ident())
        return lambda: time.sleep(0.01)

    def start(_: int) -> Tuned:
        together.wait()
        return tune_once(ComputeSettings(), OPEN, prepare, 8, CPU, {})

    with ThreadPoolExecutor(2) as jobs:
        first, second = jobs.map(start, range(2))
    assert first == second
    assert len(measuring) == 1


def test_a_file_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SYMMETRY_ROBUSTNESS_CACHE", str(tmp_path / "file"))
    assert tune_once(ComputeSettings(), OPEN, prepare_of(lambda settings: 1), 8, CPU, {}).images_per_second


@pytest.mark.parametrize(
    "content", [None, {}, {"precision": "32-true"}, {**plain_tuned(Tuned(ComputeSettings(), {})), "threads": "2"}]
)
def test_damaged_answers_are_none(content: dict[str, Any] | None) -> None:
    assert read_tuned(content) is None


def test_an_answer_survives_a_file() -> None:
    tuned = Tuned(ComputeSettings("bf16-mixed", False, True, 3), {"x": 1.5})
    assert read_tuned(json.loads(json.dumps(plain_tuned(tuned)))) == tuned


def test_processes_wait_for_the_one_that_decides() -> None:
    written: list[Tuned] = []
    late = threading.Timer(0.3, lambda: written.append(Tuned(ComputeSettings("bf16-mixed"), {})))
    late.start()
    tuned = agreed(lambda: written[0] if written else None, lambda: Tuned(ComputeSettings(), {}), decides=False)
    late.join()
    assert tuned.settings == ComputeSettings("bf16-mixed")
    assert agreed(lambda: written[0], lambda: Tuned(ComputeSettings(), {}), decides=True).settings == ComputeSettings(
        "bf16-mixed"
    )
    assert (
        agreed(lambda: None, lambda: Tuned(ComputeSettings(), {}), decides=False, patience=0.0).settings
        == ComputeSettings()
    )


def test_stated_settings_are_not_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stated = ["compute.precision=bf16-mixed", "compute.channels_last=false", "compute.compile=false"]
    config, _, classifier = job(*stated)
    assert tune_training(config, classifier, 8, SHAPE) == Tuned(ComputeSettings("bf16-mixed", channels_last=False), {})
    assert not cache.exists()


def test_a_job_keeps_its_settings(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in provenance count, also where a measurement would differ; a second start adds nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config, datamodule, classifier = job()
    create_run(config, tmp_path / "run", ["symrob", "train"])
    first = settle(config, tmp_path / "run", classifier, datamodule)
    assert read_provenance(tmp_path / "run")["compute"] == plain_tuned(first)
    assert first.images_per_second
    other = ComputeSettings(first.settings.precision, not first.settings.channels_last)
    known = read_provenance(tmp_path / "run") | {"compute": plain_tuned(Tuned(other, {}))}
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(known))
    resumed = copy.deepcopy(classifier)
    assert settle(config, tmp_path / "run", resumed, datamodule).settings == other
    assert (resumed.memory_format == torch.channels_last) == other.channels_last


def test_a_measured_job_trains_as_a_job_with_its_settings_stated(cache: Path) -> None:
    """To the bit, although the measurement stands between the network's first weights and its training."""

    def trained(*stated: str) -> tuple[ComputeSettings, dict[str, Tensor]]:
        torch.manual_seed(1)
        config, datamodule, classifier = job("objective=fgsm_rs", *stated)
        settings = tune_training(config, classifier, 8, SHAPE).settings
        classifier.lay_out(channels_last=settings.channels_last)
        step = classifier.objective
        optimizer = classifier.make_optimizer(classifier.network.parameters())
        for images, labels in list(datamodule.train_dataloader())[:3]:
            images = (images.float() / 255).contiguous(memory_format=classifier.memory_format)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision != "32-true"):
                loss, _ = step(classifier.network.train(), images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return settings, contents(classifier.network)

    settings, measured = trained()
    _, stated = trained(
        f"compute.precision={settings.precision}",
        f"compute.channels_last={settings.channels_last}",
        "compute.compile=false",
    )
    assert all(torch.equal(measured[name], stated[name]) for name in measured)


def test_attacks_are_measured_in_float32_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(autotune, "available_cores", lambda: 4)
    _, _, classifier = job()
    network = classifier.network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before, weights = states(), contents(network)
    tuned = tune_attacks(network, 8, SHAPE, CPU)
    assert states() == before
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert all(name.startswith("32-true") for name in tuned.images_per_second)
    assert tuned.settings.threads in (1, 2, 4)
    assert any("channels first" in name for name in tuned.images_per_second)


def test_threads_are_at_most_the_cores_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "available_cores", lambda: 2)
    before = torch.get_num_threads()
    for asked, given in ((0, before), (1, 1), (2, 2), (64, 2)):
        with computing_in(asked):
            assert torch.get_num_threads() == given
        assert torch.get_num_threads() == before


def test_attacks_on_images_of_another_size_are_measured_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    network: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    network.to(memory_format=torch.channels_last)
    for size in (8, 16, 8):
        tune_attacks(network, 4, (3, size, size), CPU)
    assert len([*cache.glob("*.json")]) == 2
