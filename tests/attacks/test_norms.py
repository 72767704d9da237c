import pytest
import torch

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.attacks.norms import NORMS

EPSILON = torch.tensor([0.01, 0.1, 0.5, 3.0])


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((4, 3, 8, 8), generator=generator)
    return images, images + 4 * torch.randn(images.shape, generator=generator)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_lies_in_ball_and_bounds_and_is_idempotent(
    norm: str, points: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, far = points
    once = ThreatModel(norm).project(far, images, EPSILON)
    assert (NORMS[norm].length((once - images).double()) <= EPSILON + 1e-6).all()
    assert once.min() >= 0
    assert once.max() <= 1
    torch.testing.assert_close(ThreatModel(norm).project(once, images, EPSILON), once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_leaves_inner_points_alone(norm: str, points: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, far = points
    inner = (images + 1e-4 * (far - images)).clamp(0, 1)
    epsilon = torch.full((4,), 2.0)
    torch.testing.assert_close(ThreatModel(norm).project(inner, images, epsilon), inner, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_steepest_direction_attains_the_dual_norm(norm: str, order: float) -> None:
    gradient = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    step = NORMS[norm].steepest_direction(gradient)
    torch.testing.assert_close(NORMS[norm].length(step), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close((step * gradient).flatten(1).sum(1), gradient.flatten(1).norm(order, dim=1))
    torch.testing.assert_close(NORMS[norm].dual.length(gradient), gradient.flatten(1).norm(order, dim=1))


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_step_of_tiny_and_zero_gradients(norm: str) -> None:
    gradient = torch.randn(2, 3, 4, 4) * torch.tensor([1e-30, 0.0]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(NORMS[norm].length(NORMS[norm].steepest_direction(gradient)), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("norm", NORMS)
def test_samples_fill_the_unit_ball_uniformly(norm: str) -> None:
    generator = torch.Generator().manual_seed(3)
    length = NORMS[norm].length(NORMS[norm].sample((4000, 2, 1, 1), generator, "cpu"))
    assert length.max() <= 1 + 1e-6
    # In two dimensions a quarter of a ball's volume lies within half its radius.
    assert abs((length <= 0.5).float().mean().item() - 0.25) < 0.03


def test_l1_projection_is_the_nearest_point() -> None:
    generator = torch.Generator().manual_seed(5)
    far = 3 * torch.randn((6, 3, 2, 2), generator=generator)
    nearest = NORMS["l1"].project(far, torch.ones(6))
    # Of a convex set: no point of it makes an obtuse angle less than straight with the way out.
    for corner in torch.cat([torch.eye(12), -torch.eye(12)]):
        inner = ((corner - nearest.flatten(1)) * (far - nearest).flatten(1)).sum(1)
        assert (inner <= 1e-3).all()
