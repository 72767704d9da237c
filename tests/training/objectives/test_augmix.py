"""Consistency over augmented copies: bounds of the divergence, and networks on which it is known."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from symmetry_robustness.data import AugMix
from symmetry_robustness.training.objectives import AugMixConsistency
from symmetry_robustness.training.objectives.augmix import jensen_shannon

from .networks import CLASSES, batch, smooth_network


class Mirror:
    """Copies that are mirrored left and right."""

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return ()

    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        return images.flip(3)


def test_the_divergence_lies_between_zero_and_its_largest_value() -> None:
    certain = 50 * torch.eye(3)[:, None]  # three predictions, each sure of another class
    assert jensen_shannon(certain).item() == torch.tensor(math.log(3)).item()
    equal = torch.randn(1, 5, 4).expand(3, -1, -1)
    assert jensen_shannon(equal).abs().max() < 1e-6
    found = jensen_shannon(10 * torch.randn(3, 1000, 4))
    assert -1e-6 < found.min() < found.max() <= math.log(3) + 1e-6


def test_the_divergence_is_that_of_its_definition() -> None:
    p = torch.rand(3, 20, 5).double().log_softmax(2).exp()
    entropy = -(p * p.log()).sum(2)
    mean = p.mean(0)
    expected = -(mean * mean.log()).sum(1) - entropy.mean(0)
    torch.testing.assert_close(jensen_shannon(p.log()).double(), expected, rtol=0, atol=1e-6)


def test_an_invariant_network_pays_nothing() -> None:
    images, labels = batch()
    network = smooth_network().eval()
    loss, logits = AugMixConsistency(Mirror(), 12.0)(lambda x: network(x + x.flip(3)), images, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels), rtol=0, atol=1e-5)
    other, _ = AugMixConsistency(Mirror(), 12.0)(network, images, labels)
    assert other > F.cross_entropy(network(images), labels) + 1e-4


def test_the_weight_multiplies_the_divergence_of_augmented_copies() -> None:
    images, labels = batch()
    network = smooth_network().eval()
    losses = []
    for strength in (1e-9, 1.0, 12.0):
        torch.manual_seed(3)
        losses.append(AugMixConsistency(AugMix(), strength)(network, images, labels)[0])
    zero, one, twelve = losses
    assert 0 < one - zero <= math.log(3)
    torch.testing.assert_close(twelve - zero, 12 * (one - zero), rtol=1e-4, atol=1e-6)
    assert network(images).shape == (len(images), CLASSES)
