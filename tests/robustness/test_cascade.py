"""A cascade is the worst case over its attacks, at the price of the attacks that are needed."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from symmetry_robustness import load_config
from symmetry_robustness.attacks import FGSM, PGD, LibraryAttack, ThreatModel
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport, evaluate_robustness

GRID = (0.002, 0.005, 0.01, 0.02)


@dataclass
class Noted:
    """Changes nothing, or hands over to FGSM, and notes what it was given."""

    strong: bool = False
    calls: list[tuple[float, int]] = field(default_factory=list)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object = None
    ) -> Tensor:
        self.calls.append((threat.epsilon, len(images)))
        return FGSM()(network, images, labels, threat) if self.strong else images.clone()


def evaluated(
    network: nn.Module, images: Tensor, labels: Tensor, **attacks: object
) -> tuple[RobustnessReport, RobustnessReport]:
    """The report of a cascade, and that of the same attacks each on its own."""
    protocol = EvaluationProtocol(attacks=attacks, epsilons=GRID, batch_size=7, cascade=True)  # type: ignore[arg-type]
    apart = replace(protocol, cascade=False)
    return (
        evaluate_robustness(network, images, labels, protocol),
        evaluate_robustness(network, images, labels, apart),
    )


def least(report: RobustnessReport, count: int) -> np.ndarray:
    return np.min(list(report.minimal_epsilon.values())[:count], axis=0)


ATTACKS = {
    "fgsm": FGSM(),
    "target": PGD(steps=3, targeted=True, restarts=2, loss="margin"),
    "random": PGD(steps=3, random_start=True, restarts=2),
    "own": Noted(strong=True),
    "pgd": PGD(steps=6),
}


@pytest.mark.parametrize("names", [("fgsm", "pgd"), ("own", "pgd", "fgsm"), ("target", "own"), tuple(ATTACKS)])
def test_rows_are_the_worst_case_so_far(
    network: nn.Module, images: Tensor, labels: Tensor, names: tuple[str, ...]
) -> None:
    cascade, apart = evaluated(network, images, labels, **{name: ATTACKS[name] for name in names})
    for count, name in enumerate(names, start=1):
        np.testing.assert_array_equal(cascade.minimal_epsilon[name], least(apart, count))
    for epsilon in GRID:
        assert cascade.worst_case(epsilon) == apart.worst_case(epsilon)
        assert cascade.accuracy(names[-1], epsilon) == cascade.worst_case(epsilon)
    for name in names:
        broken = np.isfinite(cascade.minimal_epsilon[name]) & (cascade.minimal_epsilon[name] > 0)
        assert (cascade.distance[name][broken] <= cascade.minimal_epsilon[name][broken] + 1e-6).all()
        assert np.isfinite(cascade.distance[name]).sum() == np.isfinite(cascade.minimal_epsilon[name]).sum()
    assert {check.name: check.status for check in cascade.checks}["inside_ball"] == "passed"


def test_an_attack_gets_only_what_is_standing(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    last = Noted()
    report, _ = evaluated(network, images, labels, pgd=PGD(steps=6), last=last)
    standing = [int((report.minimal_epsilon["pgd"] > epsilon).sum()) for epsilon in GRID]
    given = {epsilon: sum(n for e, n in last.calls if e == epsilon) for epsilon in GRID}
    alone = int(report.clean_correct.sum())
    # `last` ran twice: after pgd, and on its own.
    assert [given[epsilon] for epsilon in GRID] == [count + alone for count in standing]
    assert report.counts["given.pgd"] == report.counts["given.last"] + (alone - standing[0]) == alone
    assert report.counts["broken.last"] == 0
    assert report.counts["broken.pgd"] == np.isfinite(report.minimal_epsilon["pgd"]).sum() - (len(images) - alone)
    np.testing.assert_array_equal(report.minimal_epsilon["last"], report.minimal_epsilon["pgd"])


def test_gradients_are_saved(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    cascade, apart = evaluated(network, images, labels, fgsm=FGSM(), pgd=PGD(steps=6))
    assert cascade.counts["gradients.fgsm"] == apart.counts["gradients.fgsm"]
    assert cascade.counts["gradients.pgd"] < apart.counts["gradients.pgd"]


def test_an_attack_that_seeks_the_smallest_change_may_still_improve(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    # FGSM at the largest epsilon only; DeepFool then finds shorter changes of the same images.
    protocol = EvaluationProtocol(
        attacks={"fgsm": FGSM(), "deepfool": LibraryAttack("DeepFool", steps=20)},
        norm="l2",
        epsilons=[0.02, 0.1, 1.0],
        cascade=True,
    )
    cascade = evaluate_robustness(network, images, labels, protocol)
    apart = evaluate_robustness(network, images, labels, replace(protocol, cascade=False))
    np.testing.assert_array_equal(cascade.minimal_epsilon["deepfool"], least(apart, 2))


def test_a_cascade_needs_any_iterate_to_count() -> None:
    with pytest.raises(UserError, match="cascade needs judge any"):
        EvaluationProtocol(attacks={"fgsm": FGSM()}, cascade=True, judge="returned")


def test_strong_is_at_most_autoattack() -> None:
    import torchattacks

    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 10)).eval()
    images = torch.rand((24, 3, 8, 8), generator=generator)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    with torch.no_grad():
        labels = network(images).argmax(1)
    queries = ["robustness.attacks.square.steps=50", "robustness.attacks.fab_targeted.iterations=5"]
    config = load_config("evaluate", ["checkpoint=none", "robustness=strong", *queries]).robustness
    report = evaluate_robustness(network, images, labels, instantiate(config, _convert_="all"))
    attack = torchattacks.AutoAttack(network, eps=8 / 255, n_classes=10, seed=0)
    attack._autoattack.attacks[3].n_queries = 50
    attacked = attack(images, labels)
    with torch.no_grad():
        theirs = float((network(attacked).argmax(1) == labels).float().mean())
    assert 0 < theirs < 1
    assert report.worst_case(8 / 255).value <= theirs
    assert list(report.minimal_epsilon) == ["pgd", "pgd_targeted", "apgd_ce", "apgd_targeted", "fab_targeted", "square"]
