"""TRADES on networks whose predictions are known."""

import torch
from torch import nn
from torch.nn import functional as F

from symmetry_robustness.training.objectives import TRADES, CrossEntropy
from symmetry_robustness.training.objectives.base import divergence

from .networks import batch, linear_network


def test_the_divergence_is_zero_at_the_clean_image_and_positive_elsewhere() -> None:
    logits = 5 * torch.randn(8, 3)
    assert torch.equal(divergence(logits, logits), torch.zeros(8))
    assert (divergence(logits, logits + torch.randn(8, 3)) > 0).all()
    p, q = logits.softmax(1), torch.full((8, 3), 1 / 3)
    torch.testing.assert_close(divergence(logits, torch.zeros(8, 3)), (p * (p / q).log()).sum(1))


def test_on_a_constant_network_nothing_is_added() -> None:
    network, (images, labels) = linear_network(), batch()
    nn.init.zeros_(network[1].weight)
    loss, _ = TRADES()(network, images, labels)
    assert torch.equal(loss, CrossEntropy()(network, images, labels)[0])


def test_the_loss_of_a_binary_linear_network_is_that_of_the_farther_end() -> None:
    network, (images, labels) = linear_network(2), batch()
    weight = (network[1].weight[1] - network[1].weight[0]).detach()
    epsilon = 0.1
    clean = network(images)
    shift = torch.zeros(2).index_fill_(0, torch.tensor([1]), epsilon * float(weight.abs().sum()))
    ends = torch.stack([divergence(clean, clean + shift), divergence(clean, clean - shift)])
    loss, logits = TRADES(epsilon, beta=2.0)(network, images, labels % 2)
    assert torch.equal(logits, clean)
    added = (loss - F.cross_entropy(clean, labels % 2)) / 2
    assert ends.amin(0).mean() - 1e-6 <= added <= ends.amax(0).mean() + 1e-6  # an ascent ends at one of the two


def test_the_attack_needs_no_labels() -> None:
    network, (images, labels) = linear_network(), batch()
    penalties = []
    for given in (labels, (labels + 1) % 3):
        torch.manual_seed(0)
        loss, logits = TRADES(0.1)(network, images, given)
        penalties.append(loss - F.cross_entropy(logits, given))
    torch.testing.assert_close(*penalties)


def test_the_gradient_flows_through_both_predictions() -> None:
    clean, attacked = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    divergence(clean, attacked).sum().backward()  # type: ignore[no-untyped-call]
    assert clean.grad is not None
    assert clean.grad.any()
    torch.testing.assert_close(attacked.grad, (attacked.softmax(1) - clean.softmax(1)).detach())
