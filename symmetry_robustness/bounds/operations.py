"""Operations of a traced network, each with its interval bounds, and with the lines that enclose it.

Values are float64 (B, ...) with one row for each image or for each linear function; shapes leave that axis out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

# Relative margin by which intervals are widened: more than float64 loses in a sum of nine thousand products.
ROUNDING: Final = 1e-12


class Interval(NamedTuple):
    """Least and largest value of every component, (B, ...) each."""

    lower: Tensor
    upper: Tensor

    def meet(self, other: Interval) -> Interval:
        """Intersection of both; ends that rounding has crossed are put in order."""
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

    @property
    def centre(self) -> Tensor:
        """The middle."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Half of the width."""
        return (self.upper - self.lower) / 2


class Lines(NamedTuple):
    """`low` · x ≤ operation(x) ≤ `high` · x + `offset` in an interval; slopes (B, *in), offset (B, *out)."""

    low: Tensor
    high: Tensor
    offset: Tensor


@final
@dataclass(frozen=True)
class Affine:
    """Sum of linear maps of the inputs, and a constant.

    Args:
        apply: the map; values (B, *in) to (B, *out).
        spread: the same with absolute coefficients and without the constant.
        adjoint: rows (R, *out) of coefficients of the result to those (R, *in) of each input.
        constant: its value where all inputs are zero, (1, *out) or smaller; None for zero.
        mixes: whether it computes anything; False where it only puts numbers in other places.
    """

    apply: Callable[..., Tensor]
    spread: Callable[..., Tensor]
    adjoint: Callable[[Tensor], tuple[Tensor, ...]]
    constant: Tensor | None = None
    mixes: bool = True

    def interval(self, *parts: Interval) -> Interval:
        """Bounds of the result, exact for independent components, widened by `ROUNDING`."""
        centre = self.apply(*(part.centre for part in parts))
        if not self.mixes:
            return Interval(*(self.apply(*ends) for ends in zip(*parts, strict=True)))
        width = self.spread(*(part.radius + ROUNDING * part.centre.abs() for part in parts))
        width = width * (1 + ROUNDING) + (0.0 if self.constant is None else ROUNDING * self.constant.abs())
        return Interval(centre - width, centre + width)


def moving(apply: Callable[..., Tensor], *shapes: tuple[int, ...], mixes: bool) -> Affine:
    """A linear map without a constant whose coefficients are not negative.

    Args:
        apply: the map.
        shapes: of its inputs.
        mixes: see `Affine`.
    """

    def adjoint(rows: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            zeros = [rows.new_zeros((len(rows), *shape)).requires_grad_() for shape in shapes]
            return torch.autograd.grad(apply(*zeros), zeros, rows)

    return Affine(apply, apply, adjoint, mixes=mixes)


@final
@dataclass(frozen=True)
class Relu:
    """Positive part."""

    def interval(self, part: Interval) -> Interval:
        """Positive parts of both ends."""
        return Interval(part.lower.clamp_min(0), part.upper.clamp_min(0))

    def lines(self, part: Interval) -> Lines:
        """The chord above; below 0 or the identity, whichever leaves less area. Source: arXiv 1811.00866, sec. 3.3."""
        lower, upper = part
        crossing = self.undecided(part)
        chord = torch.where(crossing, upper / torch.where(crossing, upper - lower, 1.0), (lower >= 0).to(lower))
        low = torch.where(crossing, (upper > -lower).to(lower), chord)
        return Lines(low, chord, torch.where(crossing, -chord * lower, 0.0))

    def undecided(self, part: Interval) -> Tensor:
        """Components of which the interval does not say what the operation does with them."""
        return (part.lower < 0) & (part.upper > 0)

    def pull(self, rows: Tensor, slopes: Tensor) -> Tensor:
        """Rows of coefficients of the result, (R, *out), as those of the input by slopes (R, *in)."""
        return rows * slopes


@final
@dataclass(frozen=True)
class Maximum:
    """Largest of W candidates, (B, W, *out) to (B, *out)."""

    def interval(self, part: Interval) -> Interval:
        """Largest of both ends."""
        return Interval(part.lower.amax(1), part.upper.amax(1))

    def lines(self, part: Interval) -> Lines:
        """The surest candidate below; above it one of two, whichever is lower in the middle.

        With t the largest lower end, of candidate j, the maximum is at most x_j + Σ relu(x_i - t) over the others,
        and each relu is below its chord; or it is at most the largest upper end.
        """
        lower, upper = part
        sure = torch.zeros_like(lower).scatter_(1, lower.argmax(1, keepdim=True), 1.0)
        floor = lower.amax(1, keepdim=True)
        rivals = (upper > floor) & (sure == 0)
        chord = torch.where(rivals, (upper - floor) / torch.where(rivals, upper - lower, 1.0), 0.0)
        ceiling = upper.amax(1)
        middle = (sure * part.centre).sum(1) + (chord * part.radius).sum(1)
        flat = middle > ceiling
        return Lines(
            sure,
            torch.where(flat[:, None], 0.0, sure + chord),
            torch.where(flat, ceiling, -(chord * lower).sum(1)),
        )

    def undecided(self, part: Interval) -> Tensor:
        """Candidates that may be the largest, where there are several."""
        able = part.upper > part.lower.amax(1, keepdim=True)
        return able & (able.sum(1, keepdim=True) > 1)

    def pull(self, rows: Tensor, slopes: Tensor) -> Tensor:
        """Rows of coefficients of the result, (R, *out), as those of the candidates by slopes (R, W, *out)."""
        return rows[:, None] * slopes


# Operations that are not affine, and all of them.
Bend = Relu | Maximum
Operation = Affine | Bend


def scaling(scale: Tensor, shift: Tensor | None) -> Affine:
    """Multiply and add componentwise; both broadcast against (B, *in)."""

    def apply(values: Tensor) -> Tensor:
        return values * scale if shift is None else torch.addcmul(shift, values, scale)

    return Affine(apply, lambda values: values * scale.abs(), lambda rows: (rows * scale,), shift)


def combination(signs: tuple[float, float]) -> Affine:
    """Sum or difference of two values of one shape."""

    def apply(first: Tensor, second: Tensor) -> Tensor:
        return signs[0] * first + signs[1] * second

    def adjoint(rows: Tensor) -> tuple[Tensor, ...]:
        return signs[0] * rows, signs[1] * rows

    return Affine(apply, torch.add, adjoint)


def product(weight: Tensor, bias: Tensor | None) -> Affine:
    """Values (B, *, in) times a matrix (in, out), plus a bias."""

    def apply(values: Tensor) -> Tensor:
        return values @ weight if bias is None else values @ weight + bias

    return Affine(apply, lambda values: values @ weight.abs(), lambda rows: (rows @ weight.T,), bias)


def convolution(
    weight: Tensor,
    bias: Tensor | None,
    shape: tuple[int, ...],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Affine:
    """A convolution with zero padding of values (B, C, H, W); `shape` is (C, H, W)."""
    settings = (stride, padding, dilation, groups)

    def apply(values: Tensor) -> Tensor:
        return functional.conv2d(values, weight, bias, *settings)

    def adjoint(rows: Tensor) -> tuple[Tensor, ...]:
        return (conv2d_input([len(rows), *shape], weight, rows, *settings),)  # type: ignore[no-untyped-call]

    size = weight.abs()
    constant = None if bias is None else bias.view(-1, 1, 1)
    return Affine(apply, lambda values: functional.conv2d(values, size, None, *settings), adjoint, constant)
