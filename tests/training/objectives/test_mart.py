"""MART on predictions that are known."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from symmetry_robustness.training.objectives import MART
from symmetry_robustness.training.objectives.base import divergence
from symmetry_robustness.training.objectives.mart import boosted_cross_entropy

from .networks import batch, linear_network


def test_at_equal_logits_of_ten_classes_it_is_known() -> None:
    network, (images, labels) = linear_network(10), batch()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    loss, _ = MART()(network, images, labels)
    torch.testing.assert_close(loss, torch.tensor(math.log(10) - math.log(0.9001)))


def test_the_boosted_cross_entropy_adds_the_largest_wrong_probability() -> None:
    logits, labels = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([1])
    expected = F.cross_entropy(logits, labels) - (1.0001 - logits.softmax(1)[0, 0]).log()
    torch.testing.assert_close(boosted_cross_entropy(logits, labels)[0], expected)


def test_without_an_attack_or_weight_the_boosted_cross_entropy_is_left() -> None:
    network, (images, labels) = linear_network(), batch()
    expected = boosted_cross_entropy(network(images), labels).mean()
    assert torch.equal(MART(0)(network, images, labels)[0], expected)
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    loss, _ = MART(0.1, beta=0.0)(network, images, labels)
    assert loss > expected
    torch.testing.assert_close(loss, boosted_cross_entropy(network(seen[-1]), labels).mean())


def test_the_divergence_is_weighted_by_what_the_clean_prediction_lacks() -> None:
    network, (images, labels) = linear_network(), batch()
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    loss, logits = MART(0.1, beta=2.0)(network, images, labels)
    attacked = network(seen[-1])
    wrong = 1 - logits.softmax(1).gather(1, labels[:, None])[:, 0]
    expected = boosted_cross_entropy(attacked, labels) + 2 * wrong * divergence(logits, attacked)
    torch.testing.assert_close(loss, expected.mean())
    assert 0.05 < (seen[-2] - images).abs().max() <= 0.1 + 1e-6
