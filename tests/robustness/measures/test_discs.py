import pytest
import torch
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness.measures.discs import Element, check_square, cut_disc, inner_part, move


def noise(size: int, share: float = 1.0) -> Tensor:
    """Random images (4, 3, H, H) with frequencies up to a share of the grid's limit."""
    maps = torch.rand((4, 3, size, size), generator=torch.Generator().manual_seed(size))
    frequency = torch.fft.fftfreq(size, 1 / size)
    kept = torch.hypot(frequency[:, None], frequency[None, :]) < share * size / 2
    return torch.fft.ifft2(torch.fft.fft2(maps) * kept).real


def lost(maps: Tensor, element: Element) -> float:
    """Share of the content's square that is not there after moving it there and back."""
    disc = cut_disc(maps)
    back = move(move(disc, element), element.inverse)
    return float((back.content - disc.content).square().sum() / disc.content.square().sum())


@pytest.mark.parametrize("size", [1, 2, 7, 8, 32])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_exact_and_counter_clockwise(size: int, turns: int) -> None:
    disc = cut_disc(noise(size))
    torch.testing.assert_close(
        move(disc, Element(90.0 * turns)).maps, torch.rot90(disc.maps, turns, (2, 3)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("element", [Element(30), Element(-117), Element(45, 0.7), Element(0, 0.8), Element(10, 1.25)])
def test_a_wave_is_moved_to_where_the_formula_says(element: Element) -> None:
    # A Gaussian bump is band-limited and inside the frame up to rounding; its centre moves as a point does.
    place = torch.arange(32, dtype=torch.float64) - 15.5
    right, up = place[None, :], -place[:, None]

    def bump(x: float, y: float, width: float) -> Tensor:
        return torch.exp(-((right - x) ** 2 + (up - y) ** 2) / (2 * width**2)).float()

    position = torch.view_as_complex(torch.tensor([4.0, 2.0]))
    angle = torch.deg2rad(torch.tensor(element.angle))
    moved = element.scale * position * torch.polar(torch.tensor(1.0), angle)
    found = move(cut_disc(bump(4.0, 2.0, 2.0)[None]), element)
    expected = bump(float(moved.real), float(moved.imag), 2.0 * element.scale)
    inside = inner_part(expected, element.scale)
    torch.testing.assert_close(found.maps[0][inside], expected[inside], atol=2e-3, rtol=0)


def test_the_floor_falls_with_smoother_images() -> None:
    losses = [lost(noise(32, share), Element(30)) for share in (1.0, 0.75, 0.5, 0.25)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < 0.1
    assert losses[-1] < 1e-3
    shrunk = [lost(noise(32, share), Element(0, 0.5)) for share in (1.0, 0.75, 0.5, 0.25)]
    assert shrunk == sorted(shrunk, reverse=True)
    assert shrunk[0] > 0.5  # half of the band does not fit into half of the pixels


def test_what_is_too_fine_for_a_smaller_scale_vanishes_and_leaves_no_alias() -> None:
    wave = torch.cos(2 * torch.pi * 13 / 32 * torch.arange(32.0)).expand(1, 32, 32)
    disc = cut_disc(wave)
    assert float(move(disc, Element(0, 0.5)).content.abs().max()) < 0.05
    assert float(move(disc, Element(0, 0.95)).content.abs().max()) > 0.5


def test_a_disc_turns_within_the_frame() -> None:
    disc = cut_disc(noise(32, 0.5))
    for angle in (10, 45, 80):
        moved = move(disc, Element(angle))
        # Nothing enters and nothing leaves: the content's square stays as it is.
        ratio = moved.content.square().sum() / disc.content.square().sum()
        assert float(ratio) == pytest.approx(1, abs=2e-3)
    corners = torch.stack([disc.content[..., row, column] for row in (0, -1) for column in (0, -1)])
    assert float(corners.abs().max()) < 0.05 * float(disc.content.abs().max())


def test_the_inner_part_is_left_as_it_is() -> None:
    maps = noise(32, 0.4)
    inside = inner_part(maps)
    torch.testing.assert_close(cut_disc(maps).maps[..., inside], maps[..., inside], atol=0.02, rtol=0)
    assert inside.sum() > inner_part(maps, 0.5).sum() > 0
    assert inner_part(torch.zeros(2, 2), 0.1).all()


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match="images must be square to be rotated"):
        check_square(torch.zeros(1, 3, 4, 5))
