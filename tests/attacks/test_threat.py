import pytest
import torch

from symmetry_robustness.attacks import ThreatModel, parse_epsilon
from symmetry_robustness.attacks.threat import NORMS, check_images, project
from symmetry_robustness.errors import UserError

EPSILON = torch.tensor([0.01, 0.1, 0.5, 3.0])


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((4, 3, 8, 8), generator=generator)
    return images, images + 4 * torch.randn(images.shape, generator=generator)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), (0.5, 0.5), ("0.25", 0.25), (1, 1.0)])
def test_epsilon_is_read_as_number_or_fraction(text: str | float, value: float) -> None:
    assert parse_epsilon(text) == value


@pytest.mark.parametrize("text", ["-1", 0, "8/0", "eight", "nan", float("inf"), "1/2/3"])
def test_bad_epsilon_is_refused(text: str | float) -> None:
    with pytest.raises(UserError, match="epsilon must be"):
        parse_epsilon(text)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_lies_in_ball_and_bounds_and_is_idempotent(
    norm: str, points: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, far = points
    once = project(NORMS[norm], far, images, EPSILON, (0.0, 1.0))
    assert (NORMS[norm].length((once - images).double()) <= EPSILON + 1e-6).all()
    assert once.min() >= 0
    assert once.max() <= 1
    torch.testing.assert_close(project(NORMS[norm], once, images, EPSILON, (0.0, 1.0)), once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_leaves_inner_points_alone(norm: str, points: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, far = points
    inner = (images + 1e-4 * (far - images)).clamp(0, 1)
    epsilon = torch.full((4,), 2.0)
    torch.testing.assert_close(project(NORMS[norm], inner, images, epsilon, (0.0, 1.0)), inner, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_steepest_step_attains_the_dual_norm(norm: str, dual: int) -> None:
    gradient = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    step = NORMS[norm].steepest(gradient)
    torch.testing.assert_close(NORMS[norm].length(step), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close((step * gradient).flatten(1).sum(1), gradient.flatten(1).norm(dual, dim=1))


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_step_of_tiny_and_zero_gradients(norm: str) -> None:
    gradient = torch.randn(2, 3, 4, 4) * torch.tensor([1e-30, 0.0]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(NORMS[norm].length(NORMS[norm].steepest(gradient)), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("norm", NORMS)
def test_samples_fill_the_unit_ball_uniformly(norm: str) -> None:
    generator = torch.Generator().manual_seed(3)
    length = NORMS[norm].length(NORMS[norm].sample((4000, 2, 1, 1), generator, "cpu"))
    assert length.max() <= 1 + 1e-6
    # In two dimensions a quarter of a ball's volume lies within half its radius.
    assert abs((length <= 0.5).float().mean().item() - 0.25) < 0.03


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l7"}, "norm must be one of linf, l2, got 'l7'"),
        ({"epsilon": -0.1}, "epsilon must be positive"),
        ({"bounds": (1.0, 0.0)}, "bounds must be two increasing"),
    ],
)
def test_bad_threats_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ThreatModel(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "float32"),
        (torch.zeros(3, 4, 4), "shape"),
        (torch.full((1, 3, 4, 4), 2.0), "must lie in"),
        (torch.full((1, 3, 4, 4), float("nan")), "got NaN; check the data"),
    ],
)
def test_unsuitable_images_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_images(images)
