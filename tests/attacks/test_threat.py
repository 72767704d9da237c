import pytest
import torch

from symmetry_robustness.attacks import ThreatModel, parse_epsilon
from symmetry_robustness.attacks.validation import check_images
from symmetry_robustness.errors import UserError


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), (0.5, 0.5), ("0.25", 0.25), (1, 1.0)])
def test_epsilon_is_read_as_number_or_fraction(text: str | float, value: float) -> None:
    assert parse_epsilon(text) == value


@pytest.mark.parametrize("text", ["-1", 0, "8/0", "eight", "nan", float("inf"), "1/2/3"])
def test_bad_epsilon_is_refused(text: str | float) -> None:
    with pytest.raises(UserError, match="epsilon must be"):
        parse_epsilon(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l7"}, "norm must be one of linf, l2, l1, got 'l7'"),
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
        (torch.full((1, 3, 4, 4), float("nan")), "contain NaN; check the data"),
    ],
)
def test_unsuitable_images_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_images(images)
