"""Views move what is seen as they say, add nothing, and become test sets that say what they are."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from symmetry_robustness.data import CIFAR10C, RotatedViews, ScaledViews, ShapesDataModule, TestTransform
from symmetry_robustness.data.archives import CIFAR
from symmetry_robustness.data.test_transforms import rescale, rotate
from symmetry_robustness.errors import UserError

NOISE = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def blob(right: float, up: float, width: float) -> Tensor:
    """A smooth spot on grey, `right` and `up` pixels from the centre, uint8 (1, 3, 32, 32)."""
    line = torch.arange(32) - 15.5
    distance = (line - right).square() + (line[:, None] + up).square()
    spot = 60 + 150 * torch.exp(-distance / (2 * width**2))
    return spot.round().to(torch.uint8).expand(1, 3, 32, 32)


def largest_difference(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns_are_exact(turns: int) -> None:
    assert torch.equal(rotate(NOISE, 90 * turns), torch.rot90(NOISE, turns, (2, 3)))


def test_resampled_angles_continue_the_exact_ones() -> None:
    for angle in (0, 90, 180, 270):
        assert largest_difference(rotate(NOISE, angle + 1e-4), rotate(NOISE, angle)) <= 1


@pytest.mark.parametrize("angle", [-30, 17.5, 45, 123, 260])
def test_a_spot_turns_about_the_centre(angle: float) -> None:
    radius, start = 7.0, 20.0
    before, after = (
        blob(radius * math.cos(math.radians(a)), radius * math.sin(math.radians(a)), 2) for a in (start, start + angle)
    )
    assert largest_difference(rotate(before, angle), after) <= 2
    assert largest_difference(rotate(before, -angle), after) > 50


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.4, 2])
def test_a_spot_moves_away_from_the_centre_as_it_grows(factor: float) -> None:
    after = blob(4 * factor, -3 * factor, 3 * factor)
    assert largest_difference(rescale(blob(4, -3, 3), factor), after) <= 3


def test_scale_one_changes_nothing() -> None:
    assert torch.equal(rescale(NOISE, 1), NOISE)


@pytest.mark.parametrize(("factor", "size", "crop", "edge"), [(0.5, 16, slice(8, 24), 3), (2, 64, slice(16, 48), 0)])
def test_scaling_is_the_usual_antialiased_resize(factor: float, size: int, crop: slice, edge: int) -> None:
    resized = functional.interpolate(NOISE.float(), size=(size, size), mode="bicubic", antialias=True)
    resized, ours = resized.round().clamp(0, 255).to(torch.uint8), rescale(NOISE, factor)
    if factor < 1:
        ours = ours[..., crop, crop]
    else:
        resized = resized[..., crop, crop]
    inner = slice(edge, ours.shape[-1] - edge)  # at its edges the resize sees nothing beyond the image
    assert largest_difference(ours[..., inner, inner], resized[..., inner, inner]) <= 1


def test_stripes_too_fine_for_the_smaller_image_turn_grey() -> None:
    stripes = (torch.arange(32) % 2 * 255).to(torch.uint8).expand(1, 3, 32, 32)
    assert largest_difference(rescale(stripes, 0.7)[..., 8:24], torch.full((1, 3, 32, 16), 127)) <= 30


@pytest.mark.parametrize("views", [RotatedViews([45, 10]), ScaledViews([0.3, 3])])
def test_corners_take_the_colour_of_the_edge(views: TestTransform) -> None:
    picture = blob(0, 0, 2)
    for view in views.views():
        shown = view.transform(picture)
        assert shown.dtype == torch.uint8
        assert largest_difference(shown[..., (0, 0, -1, -1), (0, -1, 0, -1)], torch.tensor(60)) <= 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RotatedViews([]), "angles"),
        (lambda: RotatedViews([90, 0, 90.0]), "angles"),
        (lambda: RotatedViews([math.nan]), "nan"),
        (lambda: ScaledViews([0]), "scales"),
        (lambda: ScaledViews([1, 100]), "100"),
    ],
)
def test_settings_that_cannot_be_are_named(make: Callable[[], TestTransform], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make()


def shapes(views: TestTransform | None) -> ShapesDataModule:
    return ShapesDataModule(num_classes=10, train_size=20, validation_size=10, test_size=30, test_transform=views)


def test_each_view_is_a_test_set_of_its_own() -> None:
    plain, data = shapes(None), shapes(RotatedViews([0, 90, 22.5]))
    assert data.test_names == ["rotation_0", "rotation_90", "rotation_22.5"]
    images, labels, indices = data.subset("test", None, 0)
    originals, original_labels, _ = plain.subset("test", None, 0)
    assert torch.equal(images[:30], originals)
    assert torch.equal(images[30:60], torch.rot90(originals, 1, (2, 3)))
    assert torch.equal(labels, original_labels.repeat(3))
    assert torch.equal(indices, torch.arange(90))
    loaded = [torch.cat([batch for batch, _ in loader]) for loader in data.test_dataloader()]
    assert torch.equal(torch.cat(loaded).float() / 255, images)


def test_training_and_validation_images_stay_as_they_are() -> None:
    plain, data = shapes(None), shapes(RotatedViews([90]))
    for split in ("train", "validation"):
        assert torch.equal(plain.subset(split, None, 0)[0], data.subset(split, None, 0)[0])


def test_a_subset_of_one_view_shows_the_same_images_as_that_of_another() -> None:
    (first, labels, rows), (second, same_labels, same_rows) = (
        shapes(RotatedViews([angle])).subset("test", 7, 0) for angle in (0, 180)
    )
    assert torch.equal(torch.rot90(first, 2, (2, 3)), second)
    assert torch.equal(labels, same_labels)
    assert torch.equal(rows, same_rows)


def test_views_share_the_images_in_memory() -> None:
    splits = shapes(RotatedViews([0, 45, 90]))._parts("test")
    assert len({split.images.data_ptr() for split in splits}) == 1


def test_the_provenance_says_what_was_done() -> None:
    assert shapes(RotatedViews([0, 22.5])).provenance.endswith("; test images rotated by 0, 22.5 degrees")
    assert str(shapes(ScaledViews([0.5]))).endswith("; test images scaled by 0.5")


def test_corruptions_are_turned_one_by_one(cifar10: CIFAR, writers: dict[str, Callable], tmp_path: Path) -> None:
    from symmetry_robustness.data.cifar import read_cifar

    writers["binary"](cifar10, tmp_path)
    writers["corrupted"]("CIFAR-10-C", tmp_path, read_cifar(cifar10, tmp_path, "other", train=False)[1].numpy())
    data = CIFAR10C(
        root=tmp_path, num_classes=10, corruptions=["fog", "snow"], severities=[3], copy="other", validation_size=0,
        test_transform=RotatedViews([0, 90]),
    )  # fmt: skip
    assert data.test_names == [f"{name}_3/rotation_{angle}" for name in ("fog", "snow") for angle in (0, 90)]
    assert [split.name for split in data._parts("test")] == data.test_names
