"""LAST: its recursion on a quadratic, and its limits."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.training import CrossEntropy
from symmetry_robustness.training.objectives import FGSMRandomStart, LearnFromPast, PGDTraining
from symmetry_robustness.training.objectives.base import divergence, run_update

from .networks import batch, linear_network, smooth_network

BASE = PGDTraining(0.1, steps=2, random_start=False, crafted_in="evaluation")


def step_once(objective: Any, network: nn.Module, images: Tensor, labels: Tensor, optimizer: Any) -> None:
    def step() -> None:
        optimizer.zero_grad()
        objective(network, images, labels)[0].backward()
        optimizer.step()

    run_update(objective, network, step)


class Quadratic(nn.Module):
    """The loss a theta^2 / 2, whatever the images."""

    def __init__(self, curvature: float, start: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([start], dtype=torch.float64))
        self.curvature = curvature


def test_on_a_quadratic_the_weights_follow_the_recursion() -> None:
    gamma, rate, curvature, start = 0.7, 0.3, 2.0, 1.5
    network, objective = Quadratic(curvature, start), LearnFromPast(gamma=gamma)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)

    def step() -> None:
        optimizer.zero_grad()
        (network.curvature * network.theta.square().sum() / 2).backward()
        optimizer.step()

    found = [start]
    for _ in range(12):
        objective.update(network, step)
        found.append(float(network.theta.detach()))
    shrunk = gamma * (1 - rate * curvature)
    expected = [start, (1 - gamma + shrunk) * start]  # at first the past is the present
    for _ in range(11):
        expected.append((1 - gamma) * expected[-1] + shrunk * expected[-2])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    roots = np.roots([1, -(1 - gamma), -shrunk])
    weights = np.linalg.solve([[1, 1], roots], expected[:2])
    np.testing.assert_allclose(found, [float(weights @ roots**k) for k in range(13)], rtol=1e-9, atol=1e-12)


def test_the_whole_step_without_past_and_divergence_is_a_plain_one_of_adversarial_training() -> None:
    network, (images, labels) = smooth_network(), batch()
    plain = copy.deepcopy(network)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    for trained, objective in ((network, LearnFromPast(BASE, gamma=1.0, mu=0.0)), (plain, BASE)):
        step_once(objective, trained, images, labels, torch.optim.SGD(trained.parameters(), **settings))
    for found, expected in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(found, expected)


def test_a_step_of_gamma_zero_leaves_the_weights() -> None:
    network, (images, labels) = smooth_network(), batch()
    before, objective = copy.deepcopy(network), LearnFromPast(BASE, gamma=0.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        step_once(objective, network, images, labels, optimizer)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before.parameters(), strict=True))
    assert not torch.equal(network[1].running_mean, before[1].running_mean)  # type: ignore[arg-type]


def test_the_attack_meets_the_present_and_the_loss_the_past() -> None:
    network, (images, labels) = linear_network(), batch()
    objective, seen = LearnFromPast(BASE, gamma=0.5), []
    network[1].register_forward_pre_hook(lambda module, inputs: seen.append(module.weight.detach().clone()))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    states = [network[1].weight.detach().clone()]
    for _ in range(3):
        seen.clear()
        step_once(objective, network, images, labels, optimizer)
        states.append(network[1].weight.detach().clone())
        past = states[max(len(states) - 3, 0)]
        assert len(seen) == 4
        assert all(torch.equal(weight, states[-2]) for weight in seen[:2])
        assert all(torch.equal(weight, past) for weight in seen[2:])
    assert not torch.equal(states[-2], states[-3])


def test_the_loss_mixes_cross_entropy_and_the_divergence_at_a_temperature() -> None:
    network, (images, labels) = linear_network(), batch()
    attacked = BASE.attacked(network, images, labels)
    loss, logits = LearnFromPast(BASE, mu=0.3, temperature=2.0)(network, images, labels)
    assert torch.equal(logits, network(images))
    expected = 0.7 * CrossEntropy()(network, attacked, labels)[0]
    expected = expected + 0.3 * divergence(network(attacked) / 2, network(images) / 2).mean()
    torch.testing.assert_close(loss, expected)


def test_its_state_is_the_weights_before() -> None:
    network, (images, labels) = smooth_network(), batch()
    objective, optimizer = LearnFromPast(BASE), torch.optim.SGD(network.parameters(), lr=0.1)
    before = [p.detach().clone() for p in network.parameters()]
    step_once(objective, network, images, labels, optimizer)
    assert all(torch.equal(p, q) for p, q in zip(objective.state_dict()["past"], before, strict=True))
    resumed, copied = LearnFromPast(BASE), copy.deepcopy(network)
    resumed.load_state_dict(copy.deepcopy(objective.state_dict()))
    step_once(objective, network, images, labels, optimizer)
    step_once(resumed, copied, images, labels, torch.optim.SGD(copied.parameters(), lr=0.1))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), copied.parameters(), strict=True))


@pytest.mark.parametrize("inner", [CrossEntropy(), LearnFromPast(FGSMRandomStart())])
def test_an_objective_without_an_attack_is_refused(inner: Any) -> None:
    with pytest.raises(UserError):
        LearnFromPast(inner)
