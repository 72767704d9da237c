import pytest
import torch
from torch import nn
from torch.nn import functional as F

from symmetry_robustness.errors import UserError
from symmetry_robustness.training import CleanAndFGSM, CrossEntropy


def linear_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return 0.25 + 0.5 * torch.rand(8, 3, 2, 2), torch.randint(3, (8,))


def test_cross_entropy_is_torch_s() -> None:
    network, (images, labels) = linear_network(), batch()
    loss, logits = CrossEntropy()(network, images, labels)
    assert torch.equal(logits, network(images))
    assert torch.equal(loss, F.cross_entropy(network(images), labels))


def test_clean_and_fgsm_has_the_closed_form_of_a_linear_network() -> None:
    network, (images, labels) = linear_network(), batch()
    epsilon = 0.1  # the images keep this far from 0 and 1
    weight, bias = network[1].weight, network[1].bias
    probabilities = (images.flatten(1) @ weight.T + bias).softmax(1)
    gradient = (probabilities - F.one_hot(labels, 3)) @ weight
    attacked = images.flatten(1) + epsilon * gradient.sign()
    expected = (F.cross_entropy(network(images), labels) + F.cross_entropy(attacked @ weight.T + bias, labels)) / 2
    loss, _ = CleanAndFGSM(epsilon)(network, images, labels)
    torch.testing.assert_close(loss, expected)


def test_crafting_the_attack_leaves_mode_statistics_and_gradients_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).train()
    images, labels = batch()
    CleanAndFGSM(0.1)(network, images, labels)
    assert all(module.training for module in network.modules())
    assert network[1].num_batches_tracked == 1
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("make", [lambda: CleanAndFGSM(-0.1), lambda: CleanAndFGSM(0.0), lambda: CrossEntropy(1.5)])
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(UserError):
        make()  # type: ignore[operator]
