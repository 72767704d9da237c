"""Attributions of linear functions, the choice of cells, and the terms that follow from it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from symmetry_robustness.training import CrossEntropy
from symmetry_robustness.training.objectives import AttributionGuided, InputGradient, PGDTraining
from symmetry_robustness.training.objectives.attribution_guided import (
    attributions,
    grid_cells,
    mean_colour,
    spurious_cells,
)
from symmetry_robustness.training.objectives.base import half_square, input_gradient

from .networks import batch, linear_network, smooth_network


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_attributions_of_a_linear_function_are_its_sums_over_cells(fill: str) -> None:
    weight, images, cells = torch.randn(3, 4, 4), torch.rand(5, 3, 4, 4), grid_cells(2, 4, 4)
    filled = torch.zeros(5, 3, 1, 1) if fill == "zero" else mean_colour(images)
    choices = torch.randint(2, (64, 4))
    shown = torch.stack([torch.where(choice.bool()[cells], images, filled) for choice in choices], 1)
    outputs = 0.3 + (weight * shown).sum((2, 3, 4))
    expected = torch.zeros(5, 4).index_add(1, cells.flatten(), (weight * (images - filled)).sum(1).flatten(1))
    found = attributions(outputs, choices, kernel_width=0.25, ridge=1e-9)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_the_regression_minimises_its_weighted_squares() -> None:
    outputs, choices = torch.randn(3, 20, dtype=torch.float64), torch.randint(2, (20, 4))
    found = attributions(outputs, choices, 0.5, 2.0)
    cosine = choices.double().sum(1) / (choices.double().sum(1).sqrt() * 2).clamp(min=1e-12)
    weights = torch.exp(-((1 - cosine) ** 2) / 0.25)

    def loss(coefficients: torch.Tensor) -> torch.Tensor:
        residual = outputs - coefficients @ choices.double().T
        intercept = (residual * weights).sum(1, keepdim=True) / weights.sum()
        return ((residual - intercept).square() * weights).sum() + 2.0 * coefficients.square().sum()

    point = found.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(point), point)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def test_cells_are_spurious_that_speak_against_the_class_or_hardly_at_all() -> None:
    found = torch.tensor([[5.0, 0.1, -9.0, 3.0, 0.0], [-5.0, -1.0, -3.0, -4.0, -2.0]])
    assert spurious_cells(found, 0.0).tolist() == [[False, False, True, False, True], [True, False, True, True, True]]
    assert spurious_cells(found, 0.5).tolist() == [[False, True, True, False, True], [True, False, True, True, True]]


def test_cells_tile_the_image_evenly() -> None:
    cells = grid_cells(3, 7, 6)
    assert cells.unique(return_counts=True)[0].tolist() == list(range(9))
    assert cells.unique(return_counts=True)[1].tolist() == [6, 6, 6, 4, 4, 4, 4, 4, 4]
    assert cells[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_cell_that_alone_speaks_for_the_class_is_found() -> None:
    """A network that looks at one pixel: its cell is kept, and the others are spurious or tiny."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0, 5] = 20.0  # of the first row, second cell
    images = torch.full((4, 3, 4, 4), 0.2)
    images[:, 0, 1, 1] = 0.9
    found = AttributionGuided(samples=64, grid=4, quantile=1.0).spurious(network, images, torch.zeros(4).long())
    assert found.shape == (4, 1, 4, 4)
    assert (found.sum((1, 2, 3)) == 15).all()
    assert not found[:, 0, 1, 1].any()


def test_the_penalty_at_all_pixels_is_that_of_the_input_gradient() -> None:
    network, (images, labels) = smooth_network().eval(), batch()
    gradient = input_gradient(network, images, labels)[2]
    penalty = InputGradient(1.0, "l2", "double_backward")(network, images, labels)[0]
    plain = CrossEntropy()(network, images, labels)[0]
    everywhere = torch.ones(len(images), 1, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(half_square(gradient * everywhere).mean(), penalty - plain)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    network, (images, labels) = linear_network(), batch()
    off = {"hidden_strength": 0.0, "gradient_strength": 0.0, "attacked_strength": 0.0}

    def loss(**strengths: float) -> torch.Tensor:
        torch.manual_seed(0)
        return AttributionGuided(0.1, grid=2, **(off | strengths))(network, images, labels)[0]  # type: ignore[arg-type]

    torch.manual_seed(0)
    spurious = AttributionGuided(grid=2).spurious(network, images, labels)
    plain = CrossEntropy()(network, images, labels)[0]
    hidden = F.cross_entropy(network(torch.where(spurious, mean_colour(images), images)), labels)
    torch.testing.assert_close(loss(hidden_strength=0.5), plain + 0.5 * hidden)
    gradient = input_gradient(network, images, labels)[2]
    penalty = (gradient * spurious).square().sum((1, 2, 3)).mean() / 2
    assert penalty > 0
    torch.testing.assert_close(loss(gradient_strength=0.5), plain + 0.5 * penalty)
    torch.manual_seed(0)
    attacked = PGDTraining(0.1, crafted_in="evaluation")(network, images, labels)[0]
    torch.testing.assert_close(loss(attacked_strength=0.5), plain + 0.5 * attacked)


def test_attributions_leave_running_statistics_alone() -> None:
    network, (images, labels) = smooth_network().train(), batch()
    before = [buffer.clone() for buffer in network.buffers()]
    AttributionGuided(samples=3).spurious(network, images, labels)
    assert all(torch.equal(now, then) for now, then in zip(network.buffers(), before, strict=True))
    assert network.training
