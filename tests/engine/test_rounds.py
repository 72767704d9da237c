"""Rounds: the host asks the device for results once in eight passes, and finds the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from symmetry_robustness.attacks import FGSM, PGD, ThreatModel, UpdateRule
from symmetry_robustness.attacks.apgd import APGD
from symmetry_robustness.attacks.fab import FAB
from symmetry_robustness.attacks.square import Square
from symmetry_robustness.engine.continuous_batching import ContinuousBatching, SearchResult
from symmetry_robustness.engine.rounds import round_length

GRID = [ThreatModel("linf", epsilon) for epsilon in (0.002, 0.004, 0.008, 0.012, 0.016, 0.02, 0.03, 0.05)]
RULES: dict[str, UpdateRule] = {
    "fgsm": FGSM(),
    "pgd5": PGD(steps=5),
    "pgd40": PGD(steps=40),
    "momentum": PGD(steps=12, momentum=1.0),
    "random": PGD(steps=10, random_start=True, restarts=2),
    "targeted": PGD(steps=10, loss="margin", targeted=True, restarts=3),
    "apgd": APGD(steps=20),
}
OTHERS: dict[str, UpdateRule] = {"square": Square(steps=20), "fab": FAB(iterations=4)}

# Operations that need a value on the host, as they appear below autograd and as methods of tensors.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique", "unique_")
ASKING = {Tensor.cpu, Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__float__, Tensor.__int__}


class Below(TorchDispatchMode):
    """Counts operations that wait for the device."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        indexed = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name.startswith(WAITING) or indexed:
            self.note(name)
        return func(*args, **(kwargs or {}))


class Above(TorchFunctionMode):
    """Counts methods that bring a tensor to the host."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ASKING:
            self.note(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_transfers() -> Iterator[list[str]]:
    """Names of the transfers to the host inside; `.cpu().numpy()` of one tensor is one."""
    found: list[str] = []
    calls: list[str] = []

    def above(name: str) -> None:
        calls.append(name)
        if not (name == "numpy" and calls[-2:-1] == ["cpu"]):
            found.append(name)

    def below(name: str) -> None:
        if not (found and found[-1] in ("item", "__bool__", "__float__", "__int__") and name == "_local_scalar_dense"):
            found.append(name)

    with Above(above), Below(below):
        yield found


class Counting(nn.Module):
    """Counts the passes of a network; each of its layers gives a row the same bits in every batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.network(images)
        return logits


@pytest.fixture
def counting(network: nn.Module) -> Counting:
    return Counting(network).eval()


@pytest.fixture
def attacked(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return images[:16], network(images[:16]).argmax(1)


def search(network: nn.Module, rule: UpdateRule, batch: tuple[Tensor, Tensor], wait: int, size: int) -> SearchResult:
    return ContinuousBatching(network, rule, GRID, batch_size=size, wait=wait).find_minimal_epsilon(
        *batch, keep=range(len(batch[0]))
    )


def test_transfers_are_counted() -> None:
    values = torch.arange(4.0)
    with counted_transfers() as found:
        assert float(values.sum()) == 6
        assert values.cpu().numpy().shape == (4,)
        assert bool((values > 0).any())
        _ = values[values > 1]
        _ = torch.nonzero(values)
        assert values.max().item() == 3
        values = values * 2 + torch.where(values > 1, values, 0.0)
    assert len(found) == 6


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [8, 64])
def test_the_host_asks_at_most_once_in_eight_passes(
    counting: Counting, attacked: tuple[Tensor, Tensor], rule: str, size: int
) -> None:
    engine = ContinuousBatching(counting, RULES[rule], GRID, batch_size=size, wait=8)
    engine.find_minimal_epsilon(attacked[0][:1], attacked[1][:1])  # whatever is read once
    with counted_transfers() as found:
        engine.find_minimal_epsilon(attacked[0][:0], attacked[1][:0])
    once, counting.passes = len(found), 0
    with counted_transfers() as found:
        engine.find_minimal_epsilon(*attacked, keep=range(5))
    assert counting.passes >= 8
    # The results left unread at the end, and the count of gradients that are not finite, are asked for once.
    assert len(found) - once <= counting.passes / 8 + 1, found


def test_without_rounds_the_host_asks_in_every_pass(counting: Counting, attacked: tuple[Tensor, Tensor]) -> None:
    with counted_transfers() as found:
        search(counting, RULES["pgd40"], attacked, 1, 8)
    assert len(found) >= counting.passes - 8


@pytest.mark.parametrize("rule", [*RULES, *OTHERS])
@pytest.mark.parametrize("size", [8, 64])
def test_results_are_the_same_to_the_bit(
    network: nn.Module, attacked: tuple[Tensor, Tensor], rule: str, size: int
) -> None:
    found = [search(network, (RULES | OTHERS)[rule], attacked, wait, size) for wait in (1, 8)]
    assert np.isfinite(found[0].distance).sum() > 0
    for other in found[1:]:
        np.testing.assert_array_equal(other.position, found[0].position)
        np.testing.assert_array_equal(other.distance, found[0].distance)
        assert other.adversarial.keys() == found[0].adversarial.keys()
        assert all(torch.equal(image, found[0].adversarial[row]) for row, image in other.adversarial.items())
        assert other.excess == pytest.approx(found[0].excess, abs=1e-7)
        assert other.excess <= 1e-6
        assert other.nonfinite == found[0].nonfinite


def test_passes_share_steps_of_a_rule_that_looks_ahead(counting: Counting, attacked: tuple[Tensor, Tensor]) -> None:
    found = ContinuousBatching(counting, Square(steps=40), GRID[:1]).find_minimal_epsilon(*attacked)
    assert np.isinf(found.distance).any()
    assert (found.passes[np.isinf(found.distance)] == 41).all()
    assert counting.passes < 30


class Broken(nn.Module):
    """A network whose logits are not finite at one in thirty images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        broken = (1000 * images.flatten(1).double().sum(1)).frac() < 1 / 30
        return torch.where(broken[:, None], torch.nan, self.network(images))


def test_looking_ahead_passes_by_no_success_that_the_rule_would_not_keep(
    network: nn.Module, attacked: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search(Broken(network).eval(), Square(steps=40), attacked, 1, 128)
    monkeypatch.setattr("symmetry_robustness.engine.continuous_batching._MOST_AHEAD", 1)
    one_by_one = search(Broken(network).eval(), Square(steps=40), attacked, 1, 128)
    np.testing.assert_array_equal(found.position, one_by_one.position)
    np.testing.assert_array_equal(found.distance, one_by_one.distance)


def test_images_are_attacked_at_no_more_epsilons_than_asked(
    network: nn.Module, attacked: tuple[Tensor, Tensor]
) -> None:
    limits = np.arange(len(attacked[0])) % (len(GRID) + 1)
    found = [
        ContinuousBatching(network, PGD(steps=5), GRID, batch_size=8, wait=wait).find_minimal_epsilon(
            *attacked, num_epsilons=limits
        )
        for wait in (1, 8)
    ]
    np.testing.assert_array_equal(found[0].position, found[1].position)
    np.testing.assert_array_equal(found[0].distance, found[1].distance)
    assert (found[1].position <= limits).all()


@pytest.mark.parametrize("passes", range(1, 130))
def test_items_fill_whole_rounds_with_few_passes_to_spare(passes: int) -> None:
    length = round_length(passes, 8)
    rounds = -(-passes // length)
    assert length >= min(8, passes)
    assert rounds * length - passes < max(rounds, 2)
    assert length < 16
