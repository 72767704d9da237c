import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import GradientNorm, MeasureInputs


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("linf", torch.inf)])
def test_gradient_norm_of_a_linear_network(linear: nn.Module, norm: str, order: float) -> None:
    images = torch.rand((9, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(9) % 4
    with torch.no_grad():
        probabilities = linear(images).softmax(1)
    gradient = (probabilities - nn.functional.one_hot(labels, 4)) @ linear[1].weight
    expected = torch.linalg.vector_norm(gradient, ord=order, dim=1)
    inputs = MeasureInputs(linear, images, labels, np.arange(9), batch_size=4)
    found = GradientNorm(norm=norm).compute(inputs)["value"]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_no_images_have_no_norms(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    inputs = MeasureInputs(network, images[:0], labels[:0], np.arange(0))
    assert GradientNorm().compute(inputs)["value"].shape == (0,)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(UserError, match="norm must be one of linf, l2, l1, got 'l3'"):
        GradientNorm(norm="l3")  # type: ignore[arg-type]
