"""Settings of another type than a class declares are named at once; numbers become Python's own."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from symmetry_robustness import build_network, load_config, wrap
from symmetry_robustness.attacks import FGSM, PGD, LibraryAttack, SpatialThreat, ThreatModel, as_attack
from symmetry_robustness.data.shapes import ShapesDataModule
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import Clever, EvaluationProtocol, MinimalDistance, RandomizedSmoothing
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives import CrossEntropy

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "bounds that are one number": (
        lambda: EvaluationProtocol(bounds=3),  # type: ignore[arg-type]
        "bounds must be a list, each a number, got 3; the default of EvaluationProtocol is (0.0, 1.0)",
    ),
    "bounds of a threat": (lambda: ThreatModel(bounds=3), "bounds must be two increasing numbers, got 3"),  # type: ignore[arg-type]
    "three bounds": (lambda: SpatialThreat(bounds=(0, 1, 2)), "bounds must be two increasing numbers"),  # type: ignore[arg-type]
    "array of no axes": (lambda: EvaluationProtocol(epsilons=np.array(0.5)), "epsilons must be a list"),  # type: ignore[arg-type]
    "numbers without order": (lambda: EvaluationProtocol(bounds={0.0, 1.0}), "bounds must be a list, each a number"),  # type: ignore[arg-type]
    "seed in words": (lambda: EvaluationProtocol(seed="a"), "seed must be a whole number, got 'a'"),  # type: ignore[arg-type]
    "negative seed": (lambda: EvaluationProtocol(seed=-1), "seed must be a whole number of at least 0, got -1"),
    "half a batch": (lambda: EvaluationProtocol(batch_size=4.5), "batch_size must be a whole number, got 4.5"),  # type: ignore[arg-type]
    "batch of no size": (lambda: EvaluationProtocol(batch_size=None), "batch_size must be a whole number, got None"),  # type: ignore[arg-type]
    "truth as a number": (lambda: PGD(steps=True), "steps must be a whole number, got True; the default of PGD is"),
    "number as a truth": (lambda: PGD(random_start=1), "random_start must be True or False, got 1"),  # type: ignore[arg-type]
    "epsilon that is none": (lambda: EvaluationProtocol(epsilons=[None]), "each a number or a string, got [None]"),  # type: ignore[list-item]
    "norm that is a list": (lambda: ThreatModel(norm=[]), "norm must be one of linf, l2, l1, got []"),  # type: ignore[arg-type]
    "radius in words": (lambda: Clever(radius="wide"), "radius must be a number, got 'wide'"),  # type: ignore[arg-type]
    "not one of a few": (lambda: Clever(estimate=3), "estimate must be 'weibull' or 'maximum', got 3"),  # type: ignore[arg-type]
    "name that is a number": (lambda: LibraryAttack(3), "name must be a string, got 3; give TorchAttack one"),  # type: ignore[arg-type]
    "objective": (lambda: CrossEntropy("much"), "label_smoothing must be a number, got 'much'"),  # type: ignore[arg-type]
    "data": (lambda: ShapesDataModule(num_classes=10, batch_size="all"), "batch_size must be a whole number"),  # type: ignore[arg-type]
    "network in place of an attack": (lambda: as_attack(nn.Linear(3, 3)), "must take (network, images, labels, threat"),
    "class of a measure": (lambda: EvaluationProtocol(measures={"clever": Clever}), "measure clever must be a measure"),  # type: ignore[dict-item]
    "wrap": (lambda: wrap("net"), "network must be a torch.nn.Module, got str"),  # type: ignore[type-var]
    "build": (lambda: build_network([1]), "config must be a configuration, got list; see load_config"),  # type: ignore[arg-type]
    "override, no list": (lambda: load_config("train", "seed=1"), "overrides must be a list of strings, got 'seed=1'"),
    "override that is none": (lambda: load_config("train", ["seed=="]), "seed==: Error parsing override"),
    "unknown choice": (lambda: load_config("train", ["model=standart"]), "standart"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_setting_of_another_type_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [4.0, np.int64(4), np.float32(4), torch.tensor(4), torch.tensor(4.0)])
def test_whole_numbers_of_other_types_become_integers(value: Any) -> None:
    protocol = EvaluationProtocol(attacks={"pgd": PGD(steps=value)}, batch_size=value, seed=value)
    assert json.loads(json.dumps(protocol.describe())) == protocol.describe()
    assert type(protocol.batch_size) is type(protocol.seed) is int
    assert protocol == EvaluationProtocol(attacks={"pgd": PGD(steps=4)}, batch_size=4, seed=4)


@pytest.mark.parametrize("epsilons", [np.array([0.5, 0.25]), torch.tensor([0.5, 0.25]), ("1/2", 0.25)])
def test_lists_of_numbers_may_be_arrays(epsilons: Any) -> None:
    assert EvaluationProtocol(epsilons=epsilons).grid == (0.25, 0.5)


def test_settings_that_fit_stay_as_they_are() -> None:
    assert type(Clever(radius=5).radius) is int  # 5 and 5.0 are the same setting, and its digest stays
    assert replace(PGD(), step_size="2/255").step_size == "2/255"
    assert RandomizedSmoothing(n=1e5).n == 100_000  # type: ignore[arg-type]
    assert MinimalDistance() == replace(MinimalDistance())
    assert FGSM() == FGSM(loss="cross_entropy")


def test_a_tuple_of_several_types_is_left_to_the_class_and_python_names_unknown_settings() -> None:
    @checked
    @dataclass(frozen=True)
    class Pair:
        pair: tuple[int, str] = (1, "a")

    assert Pair((2, "b")).pair == (2, "b")
    with pytest.raises(TypeError, match=r"Pair.__init__\(\) got an unexpected keyword argument 'pear'"):
        Pair(pear=1)  # type: ignore[call-arg]
