import math

import pytest
import torch

from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import downsample


def wave(size: int, frequency: float, factor: float = 1.0) -> torch.Tensor:
    """A plane wave about the centre, in radians per pixel of the unshrunk grid; float64 (size, size)."""
    place = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * factor
    return torch.cos(frequency * (0.6 * place + 0.8 * place[:, None]) + 0.3)


def inside(images: torch.Tensor) -> torch.Tensor:
    return images[..., 10:-10, 10:-10]


@pytest.mark.parametrize("factor", [1.0, 2**0.5, 2.0, 2.7])
def test_what_the_smaller_grid_can_hold_is_kept(factor):
    for share in (0.0, 0.3, 0.6, 0.8):
        small = downsample(wave(97, share * math.pi / factor), factor)
        expected = wave(int(97 / factor), share * math.pi / factor, factor)
        assert small.shape == expected.shape
        assert float((inside(small) - inside(expected)).abs().max()) < 0.005


@pytest.mark.parametrize("factor", [2**0.5, 2.0])
def test_what_is_too_fine_for_it_is_gone(factor):
    assert float(inside(downsample(wave(96, 1.5 * math.pi / factor), factor)).abs().max()) < 0.02


def test_constants_stay_and_so_do_device_and_type():
    images = torch.full((2, 3, 20, 30), 0.7)
    small = downsample(images, 1.5)
    assert (small.shape, small.dtype) == ((2, 3, 13, 20), torch.float32)
    torch.testing.assert_close(small, torch.full_like(small, 0.7))


@pytest.mark.parametrize("factor", [0.5, 9])
def test_an_impossible_factor_is_named(factor):
    with pytest.raises(UserError, match=f"factor must be between 1 and 8, got {factor}"):
        downsample(torch.zeros(1, 3, 8, 8), factor)
