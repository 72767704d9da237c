"""Laws of attacks and symmetry: what averaging over the orbit changes, and how attacks move with the image."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FAB, FGSM, PGD, OrbitAveraged, Square, ThreatModel, TorchAttack
from symmetry_robustness.attacks.base import Pass, UpdateRule, loss_gradient
from symmetry_robustness.errors import UserError
from symmetry_robustness.orbits import GridSymmetry, grid_symmetries
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness


class Brightest(nn.Module):
    """The largest value of each class over all pixels: invariant under every permutation of pixels, to the last bit."""

    def __init__(self) -> None:
        super().__init__()
        self.pixelwise = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.pixelwise(images)
        return values.flatten(2).amax(2)


@pytest.fixture(scope="module")
def invariant() -> nn.Module:
    torch.manual_seed(3)
    return Brightest().eval()


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((5, 3, 8, 8), generator=torch.Generator().manual_seed(1))


def predicted(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1)


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("flips", [False, True])
def test_symmetries_are_a_group(rotations: bool, flips: bool, images: Tensor) -> None:
    if not (rotations or flips):
        with pytest.raises(UserError, match="only the identity"):
            grid_symmetries(rotations, flips)
        return
    group = grid_symmetries(rotations, flips)
    orbit = [symmetry(images) for symmetry in group]
    assert torch.equal(orbit[0], images)
    assert all(not torch.equal(a, b) for i, a in enumerate(orbit) for b in orbit[:i])
    for symmetry in group:
        assert torch.equal(symmetry.undo(symmetry(images)), images)
        assert all(any(torch.equal(symmetry(moved), other) for other in orbit) for moved in orbit)


@pytest.mark.parametrize("settings", [{}, {"flips": False}, {"rotations": False}], ids=str)
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=7), PGD(steps=5, momentum=1.0, random_start=True)], ids=str)
def test_on_an_invariant_network_averaging_changes_no_bit(
    invariant: nn.Module, images: Tensor, attack: UpdateRule, settings: dict[str, bool]
) -> None:
    labels, threat = predicted(invariant, images), ThreatModel("linf", 0.1)
    alone = attack(invariant, images, labels, threat)
    assert not torch.equal(alone, images)
    assert torch.equal(OrbitAveraged(attack, **settings)(invariant, images, labels, threat), alone)


def test_on_another_network_it_ascends_the_mean_loss_over_the_orbit(plain: nn.Module, images: Tensor) -> None:
    labels = predicted(plain, images)
    logits, gradient = OrbitAveraged(PGD()).evaluate(plain, images, labels, labels)
    variable = images.clone().requires_grad_()
    losses = [loss_gradient(plain, symmetry(images), labels) for symmetry in grid_symmetries()]
    assert torch.equal(logits, losses[0][0])
    # The same by differentiating through the symmetries.
    odds = torch.stack([_log_odds(plain(symmetry(variable)), labels) for symmetry in grid_symmetries()]).mean(0)
    (expected,) = torch.autograd.grad(odds.sum(), variable)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(gradient, losses[0][1], rtol=0, atol=1e-3)


def _log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None])
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1) - own.squeeze(1)


def test_averaged_gradient_moves_with_the_image(plain: nn.Module, images: Tensor) -> None:
    """The averaged loss is invariant whatever the network, so that its gradient is equivariant."""
    labels, rule = predicted(plain, images), OrbitAveraged(PGD())
    gradient = rule.evaluate(plain, images, labels, labels)[1]
    for symmetry in grid_symmetries():
        moved = rule.evaluate(plain, symmetry(images), labels, labels)[1]
        torch.testing.assert_close(moved, symmetry(gradient), rtol=0, atol=1e-6)


def ascend(rule: PGD, network: nn.Module, images: Tensor, start: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """Iterate after all steps of a rule from a start of one's own."""
    epsilon = images.new_full((len(images),), threat.epsilon)
    memory = {"iterate": threat.project(images + start, images), "velocity": torch.zeros_like(images)}
    for step in range(rule.steps):
        logits, gradient = rule.evaluate(network, memory["iterate"], labels, labels)
        result = Pass(images, epsilon, labels, labels, torch.full_like(labels, step), logits, gradient)
        memory = rule.step(threat, result, memory)
    return memory["iterate"]


@pytest.mark.parametrize("symmetry", grid_symmetries(), ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])  # a step in l1 takes one of several largest pixels
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_attacks_of_an_invariant_network_move_with_the_image(
    invariant: nn.Module, images: Tensor, symmetry: GridSymmetry, norm: str, momentum: float
) -> None:
    """PGD(g x; g d0) = g PGD(x; d0): the ball of a norm is the same after a permutation of pixels."""
    labels, threat = predicted(invariant, images), ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    start = threat.geometry.sample(images.shape, torch.Generator().manual_seed(5), "cpu") * 0.1
    rule = PGD(steps=6, momentum=momentum)
    here = ascend(rule, invariant, images, start, labels, threat)
    there = ascend(rule, invariant, symmetry(images), symmetry(start), labels, threat)
    assert not torch.equal(here, images)
    # Lengths are sums over pixels in another order.
    torch.testing.assert_close(there, symmetry(here), rtol=0, atol=0 if norm == "linf" else 1e-6)


def test_attacks_of_another_network_do_not_move_with_the_image(plain: nn.Module, images: Tensor) -> None:
    labels, threat, turn = predicted(plain, images), ThreatModel("linf", 0.2), GridSymmetry(1)
    here = PGD(steps=6)(plain, images, labels, threat)
    assert (PGD(steps=6)(plain, turn(images), labels, threat) - turn(here)).abs().max() > 0.1


def test_the_evaluator_drives_it_with_its_own_gradients_and_counts_all_passes(plain: nn.Module, images: Tensor) -> None:
    """The clean pass knows one gradient of eight, so that the first step must not use it."""
    labels, threat = predicted(plain, images), ThreatModel("linf", 0.02)
    attack = OrbitAveraged(PGD(steps=3))
    protocol = EvaluationProtocol(attacks={"orbit": attack}, epsilons=[0.02])
    report = evaluate_robustness(plain, images, labels, protocol)
    returned = predicted(plain, attack(plain, images, labels, threat)) == labels
    assert (report.correct("orbit", 0.02) <= returned.numpy()).all()
    stood = report.correct("orbit", 0.02)
    assert stood.any()
    assert (report.passes["orbit"][stood] == 8 * 4).all()
    assert attack.cost == 8 * 3 * 3
    assert report.settings["attacks"]["orbit"]["attack"]["class"] == "PGD"


def test_unsuitable_settings_and_images_are_refused(plain: nn.Module) -> None:
    for attack in (FAB(), Square(), TorchAttack("PGD")):
        with pytest.raises(UserError, match="must follow a gradient in each step"):
            OrbitAveraged(attack)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="only the identity"):
        OrbitAveraged(PGD(), rotations=False, flips=False)
    wide = torch.rand(1, 3, 8, 9)
    with pytest.raises(UserError, match="set rotations=false"):
        OrbitAveraged(PGD()).against(plain, wide)
    with pytest.raises(UserError, match="set rotations=false"):
        OrbitAveraged(PGD())(plain, wide, torch.tensor([0]), ThreatModel())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(216, 3)).eval()
    labels = predicted(flat, wide)
    attacked = OrbitAveraged(PGD(), rotations=False)(flat, wide, labels, ThreatModel("linf", 0.2))
    assert not torch.equal(attacked, wide)
