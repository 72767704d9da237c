"""Rotating and scaling square maps by band-limited resampling.

A map is a trigonometric polynomial known at its pixels; with frequencies inside a circle, rotating it leads to another
such map, and nothing but the finite frame is lost. Maps are therefore first cut to a disc, whose rim fades
into the map's mean so that no corner enters or leaves, and to the circle of frequencies below the pixel grid's limit.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import outer, periodic_sinc_weights, source_positions

# Share of the radius up to which a disc is untouched; from there to its rim it fades.
_PLATEAU: Final = 0.75


class Element(NamedTuple):
    """A rotation by `angle` degrees, counter-clockwise, and a magnification by `scale`, both about the centre."""

    angle: float = 0.0
    scale: float = 1.0

    @property
    def inverse(self) -> "Element":
        """The element that undoes this one."""
        return Element(-self.angle, 1 / self.scale)


class Disc(NamedTuple):
    """Maps (..., H, H) as a mean (..., 1, 1) and what differs from it, which fades to 0 at the rim of a disc."""

    mean: Tensor
    content: Tensor

    @property
    def maps(self) -> Tensor:
        """The maps (..., H, H): the mean around a disc."""
        return self.mean + self.content

    @property
    def images(self) -> Tensor:
        """The maps as images: what resampling takes out of [0, 1] is clamped."""
        return self.maps.clamp(0, 1)


def check_square(images: Tensor) -> None:
    """Refuse images that no rotation maps to themselves.

    Raises:
        UserError: where height and width differ.
    """
    if images.shape[-1] != images.shape[-2]:
        raise UserError(f"images must be square to be rotated, got {tuple(images.shape[-2:])}; crop them")


def cut_disc(maps: Tensor) -> Disc:
    """Cut square maps (..., H, H) to a disc and to frequencies below the grid's limit in every direction."""
    weight = ((1 - _radius(maps)) / (1 - _PLATEAU)).clamp(0, 1)
    weight = weight * weight * (3 - 2 * weight)  # without a kink at either end
    mean = (weight * maps).sum((-2, -1), keepdim=True) / weight.sum()
    return Disc(mean, _low_pass(weight * (maps - mean), 1.0))


def move(disc: Disc, element: Element) -> Disc:
    """Rotate and scale discs; what leaves the frame, or is finer than the pixels of a smaller scale, is lost."""
    content = _low_pass(disc.content, min(1.0, element.scale))
    kernel = _interpolation(content.shape[-1], element).to(content.device)
    return Disc(disc.mean, (content.flatten(-2) @ kernel.T).view(content.shape))


def inner_part(maps: Tensor, scale: float = 1.0) -> Tensor:
    """Mask (H, H) of the pixels that no fading touches, neither in a disc nor in one moved by such a scale."""
    # At least the middle pixels of the coarsest maps.
    return _radius(maps) <= max(_PLATEAU * min(scale, 1.0), 1.5 / maps.shape[-1])


def _radius(maps: Tensor) -> Tensor:
    """Distance (H, H) of each pixel from the centre, 1 at the edges of the frame."""
    size = maps.shape[-1]
    place = (torch.arange(size, device=maps.device) - (size - 1) / 2) / (size / 2)
    return torch.hypot(place[:, None], place[None, :])


def _low_pass(maps: Tensor, cutoff: float) -> Tensor:
    """Keep the frequencies inside a circle, whose radius is a share of the grid's limit of H / 2 periods."""
    size = maps.shape[-1]
    frequency = torch.fft.fftfreq(size, 1 / size, device=maps.device)
    kept = torch.hypot(frequency[:, None], frequency[None, :]) < cutoff * size / 2
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(maps) * kept).real
    return filtered


def _interpolation(size: int, element: Element) -> Tensor:
    """Matrix (H · H, H · H) from the pixels of a map to those of the moved one; zero where it looks outside."""
    rows, columns = source_positions(size, element.angle, element.scale)
    inside = (torch.maximum(rows.abs(), columns.abs()) <= size / 2).flatten()
    weights = [periodic_sinc_weights(places.flatten(), size) for places in (rows, columns)]
    return outer(*weights) * inside[:, None]
