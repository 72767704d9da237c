"""Kernels of resampling: what they must reproduce exactly, and where points of a moved image come from."""

import pytest
import torch

from symmetry_robustness.resampling import (
    centred,
    cubic_weights,
    lanczos_weights,
    outer,
    periodic_sinc_weights,
    source_positions,
    turn_quarters,
    warp,
)


@pytest.mark.parametrize("size", [7, 8])
def test_kernels_give_a_pixel_its_own_value_and_add_up_to_one(size: int) -> None:
    places = centred(size)
    torch.testing.assert_close(cubic_weights(places, size), torch.eye(size))
    torch.testing.assert_close(lanczos_weights(size, 1.0), torch.eye(size).double())
    between = places[:-1] + 0.3
    for weights in (cubic_weights(between, size), lanczos_weights(size, 2.5)):
        torch.testing.assert_close(weights.sum(1), torch.ones(len(weights), dtype=weights.dtype))


def test_a_periodic_line_below_the_limit_of_frequencies_is_interpolated_exactly() -> None:
    def line(places: torch.Tensor) -> torch.Tensor:
        return torch.cos(2 * torch.pi * 3 * places / 16 + 0.4)

    between = torch.linspace(-9, 9, 40, dtype=torch.float64)
    found = periodic_sinc_weights(between, 16) @ line(centred(16)).float()
    torch.testing.assert_close(found, line(between).float(), atol=1e-5, rtol=0)


def test_a_quarter_turn_takes_every_pixel_from_where_rot90_takes_it() -> None:
    rows, columns = source_positions(6, 90)
    weights = outer(cubic_weights(rows.flatten(), 6), cubic_weights(columns.flatten(), 6))
    image = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((weights @ image.flatten()).view(6, 6), torch.rot90(image), atol=1e-5, rtol=0)
    smaller, _ = source_positions(6, 0, scale=0.5)
    torch.testing.assert_close(smaller[:, 0], 2 * centred(6))


def test_quarter_turns_and_flips_are_those_of_torch() -> None:
    images = torch.rand(8, 3, 4, 4)
    turns, mirrored = torch.arange(8) % 4, torch.arange(8) // 4
    found = turn_quarters(images, turns, mirrored)
    for image, turn, flip, moved in zip(images, turns, mirrored, found, strict=True):
        assert torch.equal(moved, torch.rot90(image.flip(2) if flip else image, int(turn), (1, 2)))
    for _ in range(4):
        images = turn_quarters(images, torch.ones(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64))
    assert torch.equal(turn_quarters(images, turns, mirrored), found)


def test_images_that_are_not_square_can_be_mirrored() -> None:
    images = torch.rand(2, 3, 4, 5)
    found = turn_quarters(images, torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1]))
    assert torch.equal(found, torch.stack([images[0], images[1].flip(2)]))


def test_scale_one_changes_nothing_and_scale_two_shows_the_middle() -> None:
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(warp(images, torch.eye(2).repeat(2, 1, 1)), images)
    line = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(warp(line, torch.eye(2)[None] / 2)[0, 0, 0], 1.75 + torch.arange(8.0) / 2)
    assert torch.equal(
        warp(torch.full((2, 3, 8, 8), 0.25), torch.eye(2) * torch.tensor([2.0, 0.5])[:, None, None]),
        torch.full((2, 3, 8, 8), 0.25),
    )
