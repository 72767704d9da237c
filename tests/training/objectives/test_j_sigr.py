"""J-SIGR between its two limits, and its choice of pixels."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.training import CrossEntropy, Objective
from symmetry_robustness.training.objectives import JSIGR, InputGradient, Jacobian
from symmetry_robustness.training.objectives.j_sigr import most_salient

from .networks import CLASSES, batch, linear_network, smooth_network


def gradients(objective: Objective, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    loss, _ = objective(network, images, labels)
    return [loss, *torch.autograd.grad(loss, list(network.parameters()))]


@pytest.mark.parametrize(
    ("objective", "limit"),
    [
        (JSIGR(0.7, kept=1.0), Jacobian(0.7)),
        (JSIGR(0.7, gradient_strength=0.0), Jacobian(0.7)),
        (JSIGR(0.7, projections=CLASSES, kept=1.0), Jacobian(0.7, CLASSES)),
        (JSIGR(0.0, gradient_strength=0.7, kept=0.0), InputGradient(0.7, "l2", "double_backward")),
    ],
    ids=repr,
)
def test_its_limits_are_the_two_penalties(objective: Objective, limit: Objective) -> None:
    network, (images, labels) = smooth_network(), batch()
    found, expected = (gradients(each, network, images, labels) for each in (objective, limit))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_of_a_linear_network_the_gradient_counts_at_the_pixels_that_are_not_kept() -> None:
    network, (images, labels) = linear_network(), batch()
    probabilities = network(images).softmax(1) - nn.functional.one_hot(labels, CLASSES)
    gradient = (probabilities @ network[1].weight).reshape(images.shape)
    saliency = gradient.abs().sum(1).flatten(1)
    least = saliency <= saliency.sort(1).values[:, 11:12]  # of 16 pixels a quarter is kept
    expected = (gradient.square().sum(1).flatten(1) * least).sum(1).mean() / 2
    plain = CrossEntropy()(network, images, labels)[0]
    found = JSIGR(0.0, gradient_strength=1.0, kept=0.25)(network, images, labels)[0]
    torch.testing.assert_close(found - plain, expected)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_the_largest_values_of_each_image_are_chosen(share: float, count: int) -> None:
    saliency = torch.rand(8, 1, 4, 4)
    chosen = most_salient(saliency, share)
    assert chosen.shape == saliency.shape
    assert (chosen.flatten(1).sum(1) == count).all()
    lowest = torch.where(chosen, saliency, torch.inf).amin((1, 2, 3))
    assert (lowest > torch.where(chosen, -torch.inf, saliency).amax((1, 2, 3))).all()


def test_the_choice_is_taken_for_given() -> None:
    """The gradient by the weights is that of the loss at the pixels chosen at first."""
    network, (images, labels) = smooth_network().double().eval(), batch()
    images, weight = images.double(), network[0].weight
    objective, direction = JSIGR(0.0, gradient_strength=1.0), torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(objective(network, images, labels)[0], weight)
    losses = []
    for step in (1e-7, -1e-7):
        weight.data += step * direction
        losses.append(objective(network, images, labels)[0].detach())
        weight.data -= step * direction
    torch.testing.assert_close((losses[0] - losses[1]) / 2e-7, (gradient * direction).sum(), rtol=1e-4, atol=1e-6)
