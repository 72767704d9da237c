"""Bounds hold at thousands of points, are exact where the network is linear, and tighten as the ball shrinks."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from symmetry_robustness.attacks.norms import find_norm, per_image
from symmetry_robustness.bounds.graph import Graph, trace, values_at
from symmetry_robustness.bounds.operations import Interval, Maximum, Relu
from symmetry_robustness.bounds.relaxation import (
    Balls,
    Method,
    Norm,
    first_norms,
    margin_bounds,
    margin_rows,
    propagate,
)

from .networks import MADE, make, pictures

METHODS: tuple[Method, ...] = get_args(Method)
IMAGES = 3
RADII = {"linf": (0.004, 0.03), "l2": (0.05, 0.4)}


def network(name: str) -> tuple[Graph, Tensor, Tensor]:
    images = pictures(IMAGES)
    graph = trace(make(name), images)
    return graph, images.double(), values_at(graph, images).argmax(1)


def points(balls: Balls, count: int) -> Tensor:
    """Points (count, B, ...) in the balls, many of them on the border or at corners."""
    norm, generator = find_norm(balls.norm), torch.Generator().manual_seed(3)
    shape = (count * len(balls.images), *balls.images.shape[1:])
    inner = norm.sample(shape, generator, "cpu").double()
    third = len(inner) // 3
    inner[:third] = inner[:third] / per_image(norm.length(inner[:third]), inner)
    inner[third : 2 * third] = norm.steepest_direction(inner[third : 2 * third])
    found = balls.images + per_image(balls.radii, balls.images) * inner.view(count, *balls.images.shape)
    return found.clamp(0, 1) if balls.clip else found


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", MADE)
def test_every_value_of_the_network_lies_in_its_interval(name: str, norm: Norm) -> None:
    graph, images, _ = network(name)
    for radius in RADII[norm]:
        balls = Balls(images, torch.full((IMAGES,), radius, dtype=torch.float64), norm)
        intervals = propagate(graph, balls, first_norms(graph, norm, images.device), refine=True)
        values = [points(balls, 200).flatten(0, 1)]
        for node, interval in zip(graph[1:], intervals[1:], strict=True):
            assert node.operation is not None
            exact = node.operation.interval(*(Interval(values[parent], values[parent]) for parent in node.inputs))
            values.append(exact.centre)
            found = exact.centre.unflatten(0, (-1, IMAGES))
            assert (found >= interval.lower - 1e-12).all()
            assert (found <= interval.upper + 1e-12).all()


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", MADE)
def test_no_margin_in_a_ball_is_below_its_bound_and_better_methods_are_not_worse(
    name: str, norm: Norm, clip: bool
) -> None:
    graph, images, labels = network(name)
    norms = first_norms(graph, norm, images.device)
    rows, owner = margin_rows(labels, 5)
    for radius in RADII[norm]:
        balls = Balls(images, torch.full((IMAGES,), radius, dtype=torch.float64), norm, clip)
        bounds = [margin_bounds(graph, balls, labels, method, norms) for method in METHODS]
        logits = values_at(graph, points(balls, 1000).flatten(0, 1)).view(-1, IMAGES, 5)
        least = (logits[:, owner] * rows).sum(-1).amin(0).view(IMAGES, 4)
        for bound in bounds:
            assert (bound <= least).all()
        assert (bounds[0] <= bounds[1]).all()
        assert (bounds[0] <= bounds[2]).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", MADE)
def test_intervals_of_a_smaller_ball_lie_inside_those_of_a_larger_one(name: str, norm: Norm) -> None:
    graph, images, labels = network(name)
    norms = first_norms(graph, norm, images.device)
    before: list[Interval] | None = None
    margins = []
    for radius in torch.linspace(0, RADII[norm][1], 6, dtype=torch.float64):
        balls = Balls(images, radius.expand(IMAGES), norm)
        intervals = propagate(graph, balls, norms, refine=False)
        margins.append(margin_bounds(graph, balls, labels, "interval", norms))
        for inner, outer in zip(before or [], intervals, strict=bool(before)):
            assert (inner.lower >= outer.lower - 1e-9).all()
            assert (inner.upper <= outer.upper + 1e-9).all()
        before = intervals
    assert (torch.stack(margins).diff(dim=0) < 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MADE)
def test_bounds_belong_to_the_image_not_to_those_beside_it(name: str, method: Method) -> None:
    graph, images, labels = network(name)
    norms = first_norms(graph, "linf", images.device)
    balls = Balls(images, torch.tensor([0.002, 0.01, 0.004], dtype=torch.float64), "linf")
    together = margin_bounds(graph, balls, labels, method, norms)
    for row in range(IMAGES):
        alone = margin_bounds(graph, balls.take(torch.tensor([row])), labels[row : row + 1], method, norms)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-9, atol=1e-9)


def test_first_norms_are_those_of_the_rows_of_the_jacobian() -> None:
    graph, images, _ = network("scales")
    for norm, order in (("linf", 1), ("l2", 2)):
        found = first_norms(graph, norm, images.device)  # type: ignore[arg-type]
        assert len(found) == 3  # a convolution for each scale
        for number, norms in found.items():
            part = [*graph[: number + 1]]
            jacobian = torch.autograd.functional.jacobian(lambda x, part=part: values_at(part, x[None])[0], images[0])
            torch.testing.assert_close(norms[0], jacobian.flatten(3).norm(order, dim=3))


@pytest.mark.parametrize("operation", [Relu(), Maximum()])
def test_lines_enclose_an_operation_on_its_interval(operation: Relu | Maximum) -> None:
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn((2, 400, 4, 3), dtype=torch.float64, generator=generator).sort(0).values
    part = Interval(ends[0], ends[1])
    lines = operation.lines(part)
    share = torch.rand((300, *ends[0].shape), dtype=torch.float64, generator=generator)
    for values in part.lower + share.round(decimals=1) * (part.upper - part.lower):
        low, high = lines.low * values, lines.high * values
        if isinstance(operation, Maximum):
            low, high = low.sum(1), high.sum(1)
        exact = operation.interval(Interval(values, values)).centre
        assert (low <= exact + 1e-12).all()
        assert (exact <= high + lines.offset + 1e-12).all()
