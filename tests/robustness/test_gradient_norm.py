import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import GradientNorm, gradient_norm


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("linf", torch.inf)])
def test_gradient_norm_of_a_linear_network(linear: nn.Module, norm: str, order: float) -> None:
    images = torch.rand((9, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(9) % 4
    with torch.no_grad():
        probabilities = linear(images).softmax(1)
    gradient = (probabilities - nn.functional.one_hot(labels, 4)) @ linear[1].weight
    expected = torch.linalg.vector_norm(gradient, ord=order, dim=1)
    torch.testing.assert_close(gradient_norm(linear, images, labels, norm=norm, batch_size=4), expected)  # type: ignore[arg-type]


def test_no_images_have_no_norms(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    assert gradient_norm(network, images[:0], labels[:0]).shape == (0,)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(UserError, match="norm must be one of l1, l2, linf, got 'l3'"):
        GradientNorm(norm="l3")  # type: ignore[arg-type]
