"""Free training: the perturbation that is kept, against FGSM written out."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.training.objectives import FreeTraining
from symmetry_robustness.training.objectives.base import run_update

from .networks import batch, smooth_network

EPSILON = 0.1


def train(objective: FreeTraining, network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for images, labels in batches:

        def step(images: Tensor = images, labels: Tensor = labels) -> None:
            optimizer.zero_grad()
            objective(network, images, labels)[0].backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        run_update(objective, network, step)


def train_by_hand(network: nn.Module, batches: list[tuple[Tensor, Tensor]], replays: int) -> Tensor:
    """FGSM whose perturbation is that of the replay before; returns the last one."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    perturbation = torch.zeros_like(batches[0][0])
    for images, labels in batches:
        count = len(images)
        for _ in range(replays):
            attacked = (images + perturbation[:count].clamp(-EPSILON, EPSILON)).clamp(0, 1).requires_grad_()
            loss = F.cross_entropy(network(attacked), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            assert attacked.grad is not None
            moved = attacked.detach() + EPSILON * attacked.grad.sign()
            moved = (images + (moved - images).clamp(-EPSILON, EPSILON)).clamp(0, 1)
            perturbation = torch.cat([moved - images, perturbation[count:]])
            optimizer.step()
    return perturbation


@pytest.mark.parametrize("replays", [1, 3])
def test_it_is_fgsm_with_the_perturbation_of_the_replay_before(replays: int) -> None:
    network, sizes = smooth_network(), (8, 8, 5, 8)
    batches = [(torch.rand(size, 3, 4, 4), batch(size)[1]) for size in sizes]
    by_hand, objective = copy.deepcopy(network), FreeTraining(EPSILON, replays)
    train(objective, network, batches)
    perturbation = train_by_hand(by_hand, batches, replays)
    torch.testing.assert_close(objective.state_dict()["perturbation"], perturbation)
    for found, expected in zip(network.state_dict().values(), by_hand.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_perturbation_stays_in_the_ball_and_begins_at_zero() -> None:
    network, objective = smooth_network(), FreeTraining(EPSILON, 4)
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    batches = [(torch.rand(8, 3, 4, 4).round(), batch()[1]) for _ in range(3)]  # at the bounds
    train(objective, network, batches)
    assert torch.equal(seen[0], batches[0][0])
    for index, attacked in enumerate(seen):
        assert (attacked - batches[index // 4][0]).abs().max() <= EPSILON + 1e-6
        assert 0 <= attacked.min() <= attacked.max() <= 1
    assert len(seen) == 12
    assert not torch.equal(seen[4], batches[1][0])  # that of the batch before


def test_a_larger_batch_has_no_perturbation_where_there_was_none() -> None:
    network, objective = smooth_network(), FreeTraining(EPSILON, 1)
    first, second = (0.5 + torch.zeros(size, 3, 4, 4) for size in (4, 8))
    train(objective, network, [(first, batch(4)[1])])
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    objective(network, second, batch(8)[1])
    assert (seen[0] - second)[:4].any()
    assert torch.equal(seen[0][4:], second[4:])


def test_at_epsilon_zero_the_batch_is_replayed_as_it_is() -> None:
    network = smooth_network()
    by_hand, batches = copy.deepcopy(network), [batch(), batch()]
    train(FreeTraining(0, 2), network, batches)
    train(FreeTraining(0, 1), by_hand, [batches[0], batches[0], batches[1], batches[1]])
    for found, expected in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(found, expected)
