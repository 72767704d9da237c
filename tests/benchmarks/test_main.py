"""`python -m benchmarks` prints and keeps the rows that a part has measured."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn


def test_rows_become_a_table_on_the_terminal_and_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    main = importlib.import_module("benchmarks.__main__").main
    rows = [{"network": "standard", "ratio": 1.23456}, {"network": "cascaded", "seconds": 12345.6}]
    monkeypatch.setitem(sys.modules, "benchmarks.training", SimpleNamespace(run=lambda device: rows))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "training", "--device", "cpu", "--output", str(tmp_path)])
    assert main() == 0
    lines = ["| network | ratio | seconds |", "| standard | 1.235 |  |", "| cascaded |  | 1.235e+04 |"]
    for text in (capsys.readouterr().out, (tmp_path / "results.md").read_text()):
        assert [line for line in text.splitlines() if line.startswith("|") and "--" not in line] == lines
    assert json.loads((tmp_path / "results.json").read_text())["results"] == {"training": rows}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_a_part_with_an_unfit_subject_fails_with_the_reason(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = benchmarks("subject").check_accuracy

    def collapsed(device: str) -> list[dict[str, float | str]]:
        check("robust accuracy", 0.09, 0.1, 0.9)
        return []

    monkeypatch.setitem(sys.modules, "benchmarks.training", SimpleNamespace(run=collapsed))
    monkeypatch.setitem(sys.modules, "benchmarks.callback", SimpleNamespace(run=lambda device: [{"ratio": 2.0}]))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "training", "callback"])
    assert benchmarks("__main__").main() == 1
    printed = capsys.readouterr().out
    assert "robust accuracy is 9.0%, outside 10% to 90%" in printed
    assert "| 2 |" in printed  # the next part was measured


def test_the_ensemble_fails_where_adversarial_training_collapsed(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that answers one class withstands every attack on that class; no attack is run on it."""
    ensemble, layer = benchmarks("ensemble"), nn.Linear(12, 10)
    nn.init.zeros_(layer.weight)
    images, labels, network = torch.rand(100, 3, 2, 2), torch.arange(100) % 10, nn.Sequential(nn.Flatten(), layer)
    compared = lambda device, **_: [ensemble.compare("adversarially trained", network, images, labels, device)]  # noqa: E731
    monkeypatch.setattr(ensemble, "run", compared)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "ensemble", "--device", "cpu"])
    assert benchmarks("__main__").main() == 1
    assert "clean accuracy, adversarially trained, is 10.0%, outside 25% to 100%" in capsys.readouterr().out


def test_the_arithmetic_of_a_training_step_is_that_of_its_convolutions(
    benchmarks: Callable[[str], ModuleType],
) -> None:
    """Forward, and backward to the weights; the gradient of the images is not asked for, so not counted."""
    layer, images = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.rand(2, 3, 16, 16)
    forward = 2 * 2 * 8 * 3 * 9 * 16 * 16  # multiplications and additions, images, channels, taps, pixels
    count = benchmarks("peak").count
    assert count(lambda: layer(images).sum().backward()) == 2 * forward
    assert count(lambda: layer(images.requires_grad_()).sum().backward()) == 3 * forward
    # As an attack does: the gradient of the images alone, by autograd.grad.
    assert count(lambda: torch.autograd.grad(layer.requires_grad_(False)(images).sum(), images)) == 2 * forward


def test_a_small_share_of_the_peak_says_where_the_time_goes(benchmarks: Callable[[str], ModuleType]) -> None:
    peak = benchmarks("peak")
    images = torch.rand(8, 16, 32, 32)
    layer, pool = nn.Conv2d(16, 16, 3), nn.MaxPool2d(2)
    small = peak.columns(1e6, 1.0, 1e7, lambda: pool(layer(images)), "cpu")
    assert (small["GFLOP/s"], small["share of peak"]) == (1e-3, 0.1)
    assert "convolutions" in small["below 60 % because of"]
    assert peak.columns(6e6, 1.0, 1e7, lambda: None, "cpu")["below 60 % because of"] == ""
    assert peak.matrix_product("cpu", torch.float32) > 0
