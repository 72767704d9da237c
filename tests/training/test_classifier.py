"""What is logged of an epoch."""

import torch
from torch.nn import functional

from symmetry_robustness.training.classifier import Meter


def test_the_loss_of_an_epoch_is_the_mean_over_its_images() -> None:
    logits, labels = torch.randn(100, 3), torch.randint(3, (100,))
    meter = Meter(3)
    for part in (slice(0, 64), slice(64, 99), slice(99, 100)):
        meter.update(functional.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    torch.testing.assert_close(meter.loss.compute(), functional.cross_entropy(logits, labels))
    torch.testing.assert_close(meter.accuracy.compute(), (logits.argmax(1) == labels).float().mean())


def test_a_loss_that_is_not_a_number_shows() -> None:
    meter = Meter(2)
    for loss in (1.0, float("nan"), 1.0):
        meter.update(torch.tensor(loss), torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    assert meter.loss.compute().isnan()
