"""Mixtures, their labels and their attacks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from symmetry_robustness.training.objectives import JointSpace
from symmetry_robustness.training.objectives.joint_space import Mixture, mixed_cross_entropy

from .networks import CLASSES, batch, linear_network, smooth_network


def test_the_loss_is_linear_in_labels() -> None:
    logits, labels, others = torch.randn(8, CLASSES), torch.randint(CLASSES, (8,)), torch.randint(CLASSES, (8,))
    mixed = Mixture(torch.empty(8, 0), labels, others, 0.7)
    soft = 0.7 * F.one_hot(labels, CLASSES) + 0.3 * F.one_hot(others, CLASSES)
    torch.testing.assert_close(mixed_cross_entropy(logits, mixed), F.cross_entropy(logits, soft))
    torch.testing.assert_close(
        mixed_cross_entropy(logits, mixed, "none"), F.cross_entropy(logits, soft, reduction="none")
    )


def test_images_and_labels_are_mixed_alike() -> None:
    images, labels = torch.rand(40, 3, 4, 4), torch.arange(40)
    mixed = JointSpace(alpha=1.0).mix(images, labels)
    assert sorted(mixed.others.tolist()) == labels.tolist()
    assert (mixed.labels == labels).all()
    torch.testing.assert_close(mixed.images, mixed.share * images + (1 - mixed.share) * images[mixed.others])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_follow_the_beta_distribution_folded_at_one_half(alpha: float) -> None:
    objective, (images, labels) = JointSpace(alpha=alpha), batch(2)
    shares = torch.tensor([objective.mix(images, labels).share for _ in range(2000)])
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))  # of the beta distribution about its mean, one half
    assert float((shares - 0.5).square().mean()) == pytest.approx(variance, rel=0.1)


def test_without_mixing_interpolated_training_is_half_clean_and_half_attacked() -> None:
    network, (images, labels) = linear_network(), batch()
    network[1].weight.data *= 0.01  # so that no sign of the gradient changes within the ball
    loss, logits = JointSpace(0.1, steps=8, method="interpolated", alpha=0.0)(network, images, labels)
    weight, bias = network[1].weight, network[1].bias
    gradient = (logits.softmax(1) - F.one_hot(labels, CLASSES)) @ weight
    assert torch.equal(logits, network(images))
    attacked = F.cross_entropy((images.flatten(1) + 0.1 * gradient.sign()) @ weight.T + bias, labels)
    torch.testing.assert_close(loss, (F.cross_entropy(logits, labels) + attacked) / 2)


def test_the_attack_of_a_mixture_reaches_the_corner_of_the_ball_on_a_linear_network() -> None:
    """Two classes: the mixed loss grows along -y w as long as the network is not surer than the share."""
    network = linear_network(2)
    network[1].weight.data *= 0.01
    images, _ = batch()
    labels, others = torch.zeros(8).long(), torch.ones(8).long()
    mixed = Mixture(images, labels, others, 0.9)
    found = JointSpace(0.1, steps=8).attack_mixture(network, mixed)
    direction = (network[1].weight[1] - network[1].weight[0]).sign().reshape(3, 4, 4)
    torch.testing.assert_close(found, images + 0.1 * direction)


def test_the_attack_raises_the_loss_of_the_mixture_and_stays_in_the_ball() -> None:
    network, (images, labels) = smooth_network().eval(), batch(32)
    network[5].weight.data *= 10
    objective = JointSpace(0.05)
    mixed = objective.mix(images, labels)
    found = objective.attack_mixture(network, mixed)
    assert float((found - mixed.images).abs().max()) <= 0.05 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    attacked = mixed_cross_entropy(network(found), mixed, "none")
    assert (attacked > mixed_cross_entropy(network(mixed.images), mixed, "none")).all()


def test_clean_and_attacked_mixtures_are_drawn_apart() -> None:
    seen: list[torch.Tensor] = []

    class Watch(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach())
            return images.flatten(1)[:, :CLASSES]

    images, labels = torch.rand(8, 3, 4, 4), torch.randint(CLASSES, (8,))
    JointSpace(1e-6, method="interpolated", steps=1)(Watch(), images, labels)
    clean, _, attacked = seen
    assert float((clean - attacked).abs().max()) > 0.01
