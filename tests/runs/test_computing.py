"""What is measured leaves no trace, is kept, and is the same for all processes of a job."""

import copy
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from symmetry_robustness import load_config
from symmetry_robustness.runs import computing
from symmetry_robustness.runs.computing import (
    Answer,
    Way,
    agreed,
    computing_in,
    measure,
    plain_answer,
    read_answer,
    remembered,
    settle_attacks,
    settle_training,
    training_steps,
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
    answer = measure(Way(threads=1), {**OPEN, "threads": (1, 2)}, steps, 8, CPU)
    assert len(answer.images_per_second) == 5  # two precisions in two formats, and another number of threads
    assert states() == before
    after = contents(classifier.network)
    assert [*after] == [*network]
    assert all(torch.equal(after[name], network[name]) for name in network)
    assert all(layer.training for layer in classifier.network.modules())
    assert all(parameter.grad is None for parameter in classifier.network.parameters())
    assert all(p.is_contiguous(memory_format=torch.contiguous_format) for p in classifier.network.parameters())
    assert classifier.objective.calls == 0


def test_the_steps_are_those_of_a_training() -> None:
    """Each way's step moves every weight of its copy, in the precision and format that it names."""
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
    for way in (Way(), Way("bf16-mixed"), Way(channels_last=False)):
        steps(way, 4)()
    assert seen == [(torch.float32, True), (torch.bfloat16, True), (torch.float32, False)]
    for network in moved:
        pairs = zip(network.parameters(), classifier.network.parameters(), strict=True)
        assert all(not torch.equal(own, original) for own, original in pairs)


def prepare_of(work: Callable[[Way], int]) -> computing.Prepare:
    """Steps that multiply matrices as often as a function of the way says."""
    matrix = torch.rand(200, 200)

    def prepare(way: Way, images: int) -> computing.Step:
        return lambda: [matrix @ matrix for _ in range(work(way))]

    return prepare


def test_the_fastest_way_wins_and_failing_ones_do_not_take_part() -> None:
    def work(way: Way) -> int:
        if not way.channels_last:
            raise RuntimeError("this network views features as rows")
        return 1 if way.precision == "bf16-mixed" else 200

    answer = measure(Way(), OPEN, prepare_of(work), 8, CPU)
    assert answer.way == Way("bf16-mixed")
    assert set(answer.images_per_second) == {"32-true, channels last", "bf16-mixed, channels last"}
    assert answer.describe().startswith("bf16-mixed, channels last: ")


def test_the_usual_way_stays_where_it_is_as_fast_and_where_nothing_can_be_measured() -> None:
    def fail(way: Way) -> int:
        raise RuntimeError("no such thing")

    faster = measure(Way(), OPEN, prepare_of(lambda way: 200 if way != Way() else 1), 8, CPU)
    assert faster.way == Way()
    assert measure(Way(), OPEN, prepare_of(fail), 8, CPU) == Answer(Way(), {})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMMETRY_ROBUSTNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_answer_is_kept_for_its_network_and_its_batch(cache: Path) -> None:
    prepared: list[int] = []

    def prepare(way: Way, images: int) -> computing.Step:
        prepared.append(images)
        return lambda: None

    first = remembered(Way(), OPEN, prepare, 64, CPU, {"model": "a"})
    count = len(prepared)
    assert remembered(Way(), OPEN, prepare, 64, CPU, {"model": "a"}) == first
    assert len(prepared) == count
    for changes in ({"images": 32}, {"about": {"model": "b"}}):
        before = len(prepared)
        settings: dict[str, Any] = {"images": 64, "about": {"model": "a"}, **changes}
        remembered(Way(), OPEN, prepare, settings["images"], CPU, settings["about"])
        assert len(prepared) > before
    for file in cache.glob("*.json"):
        file.write_text('{"precision": "8-bit"}')
    before = len(prepared)
    remembered(Way(), OPEN, prepare, 64, CPU, {"model": "a"})
    assert len(prepared) > before


def test_a_file_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SYMMETRY_ROBUSTNESS_CACHE", str(tmp_path / "file"))
    assert remembered(Way(), OPEN, prepare_of(lambda way: 1), 8, CPU, {}).images_per_second


@pytest.mark.parametrize(
    "content", [None, {}, {"precision": "32-true"}, {**plain_answer(Answer(Way(), {})), "threads": "2"}]
)
def test_damaged_answers_are_none(content: dict[str, Any] | None) -> None:
    assert read_answer(content) is None


def test_an_answer_survives_a_file() -> None:
    answer = Answer(Way("bf16-mixed", False, True, 3), {"x": 1.5})
    assert read_answer(json.loads(json.dumps(plain_answer(answer)))) == answer


def test_processes_wait_for_the_one_that_decides() -> None:
    written: list[Answer] = []
    late = threading.Timer(0.3, lambda: written.append(Answer(Way("bf16-mixed"), {})))
    late.start()
    answer = agreed(lambda: written[0] if written else None, lambda: Answer(Way(), {}), decides=False)
    late.join()
    assert answer.way == Way("bf16-mixed")
    assert agreed(lambda: written[0], lambda: Answer(Way(), {}), decides=True).way == Way("bf16-mixed")
    assert agreed(lambda: None, lambda: Answer(Way(), {}), decides=False, patience=0.0).way == Way()


def test_stated_settings_are_not_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stated = ["compute.precision=bf16-mixed", "compute.channels_last=false", "compute.compile=false"]
    config, _, classifier = job(*stated)
    assert settle_training(config, classifier, 8, SHAPE) == Answer(Way("bf16-mixed", channels_last=False), {})
    assert not cache.exists()


def test_a_job_keeps_its_way(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What provenance says counts, also where a measurement would say something else; a second start adds nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config, datamodule, classifier = job()
    create_run(config, tmp_path / "run", ["symrob", "train"])
    first = settle(config, tmp_path / "run", classifier, datamodule)
    assert read_provenance(tmp_path / "run")["computing"] == plain_answer(first)
    assert first.images_per_second
    other = Way(first.way.precision, not first.way.channels_last)
    known = read_provenance(tmp_path / "run") | {"computing": plain_answer(Answer(other, {}))}
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(known))
    resumed = copy.deepcopy(classifier)
    assert settle(config, tmp_path / "run", resumed, datamodule).way == other
    assert (resumed.memory_format == torch.channels_last) == other.channels_last


def test_a_measured_job_trains_as_a_job_with_its_settings_stated(cache: Path) -> None:
    """To the bit, although the measurement stands between the network's first weights and its training."""

    def trained(*settings: str) -> tuple[Way, dict[str, Tensor]]:
        torch.manual_seed(1)
        config, datamodule, classifier = job("objective=fgsm_rs", *settings)
        way = settle_training(config, classifier, 8, SHAPE).way
        classifier.lay_out(channels_last=way.channels_last)
        step = classifier.objective
        optimizer = classifier.make_optimizer(classifier.network.parameters())
        for images, labels in list(datamodule.train_dataloader())[:3]:
            images = (images.float() / 255).contiguous(memory_format=classifier.memory_format)
            with torch.autocast("cpu", torch.bfloat16, enabled=way.precision != "32-true"):
                loss, _ = step(classifier.network.train(), images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return way, contents(classifier.network)

    way, measured = trained()
    _, stated = trained(
        f"compute.precision={way.precision}", f"compute.channels_last={way.channels_last}", "compute.compile=false"
    )
    assert all(torch.equal(measured[name], stated[name]) for name in measured)


def test_attacks_are_measured_in_float32_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(computing, "available_cores", lambda: 4)
    _, _, classifier = job()
    network = classifier.network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before, weights = states(), contents(network)
    answer = settle_attacks(network, 8, SHAPE, CPU)
    assert states() == before
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert all(name.startswith("32-true") for name in answer.images_per_second)
    assert answer.way.threads in (1, 2, 4)
    assert any("channels first" in name for name in answer.images_per_second)


def test_threads_are_at_most_the_cores_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "available_cores", lambda: 2)
    before = torch.get_num_threads()
    for asked, given in ((0, before), (1, 1), (2, 2), (64, 2)):
        with computing_in(asked):
            assert torch.get_num_threads() == given
        assert torch.get_num_threads() == before
