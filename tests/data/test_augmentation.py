"""Augmentations follow the laws of their operations, and depend on the generator alone."""

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image, ImageOps
from torch import Tensor

from symmetry_robustness import load_config
from symmetry_robustness.data import (
    Augmentation,
    Augmentations,
    AugMix,
    Cutout,
    RandomCropFlip,
    RandomRotation,
    RandomScale,
)
from symmetry_robustness.data.augmentation import augmix
from symmetry_robustness.data.loaders import rank_slice
from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import warp
from symmetry_robustness.rng import keyed_generator

ALL = (RandomCropFlip(), Cutout(5), RandomRotation(degrees=20.0), RandomScale(), AugMix())


def augmented(augmentation: Augmentation, images: Tensor, seed: int = 0) -> Tensor:
    return Augmentations(one=augmentation)(images, keyed_generator(seed))


@pytest.mark.parametrize(
    "identity",
    [RandomCropFlip(0, flip=False), Cutout(0), RandomRotation(quarters=False), RandomScale(1.0, 1.0)],
)
def test_identity_settings_change_no_bit(identity: Augmentation) -> None:
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(augmented(identity, images), images)


def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    images = torch.rand(32, 3, 8, 6) + 0.1
    results = augmented(RandomCropFlip(padding=2), images)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = []
    for image, result in zip(padded, results, strict=True):
        # The mirrored window is the flip of the window, wherever it lies.
        places = [(y, x, m) for y in range(5) for x in range(5) for m in (False, True)]
        windows = [
            image[:, y : y + 8, x : x + 6].flip(2) if m else image[:, y : y + 8, x : x + 6] for y, x, m in places
        ]
        found.append([place for place, window in zip(places, windows, strict=True) if torch.equal(window, result)])
    assert all(len(place) == 1 for place in found)
    assert {place[0][2] for place in found} == {False, True}
    assert len({place[0][:2] for place in found}) > 5


@pytest.mark.parametrize("augmentation", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("world_size", [2, 3])
def test_sharing_a_batch_does_not_change_it(augmentation: Augmentation, world_size: int) -> None:
    images = torch.rand(7, 3, 8, 8)
    shares = []
    for rank in range(world_size):
        rows = rank_slice(len(images), rank, world_size)
        shares.append(Augmentations(one=augmentation)(images[rows], keyed_generator(0), rows, len(images)))
    assert torch.equal(torch.cat(shares), augmented(augmentation, images))
    assert not torch.equal(torch.cat(shares), images)


@pytest.mark.parametrize("augmentation", ALL, ids=lambda each: type(each).__name__)
def test_pixels_stay_in_range_and_images_differ_in_their_draws(augmentation: Augmentation) -> None:
    extremes = torch.rand(1, 3, 16, 16).round().expand(64, -1, -1, -1)
    found = augmented(augmentation, extremes)
    assert found.shape == extremes.shape
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert len(found.flatten(1).unique(dim=0)) > 3
    assert not torch.equal(augmented(augmentation, extremes, seed=1), found)


def test_quarters_are_the_four_permutations_and_four_of_one_are_the_identity() -> None:
    images = torch.rand(64, 3, 7, 7)
    results = augmented(RandomRotation(), images)
    turns = [
        [k for k in range(4) if torch.equal(result, torch.rot90(image, k, (1, 2)))]
        for image, result in zip(images, results, strict=True)
    ]
    assert sorted({turn for (turn,) in turns}) == [0, 1, 2, 3]
    one, repeated = torch.ones(64, dtype=torch.int64), images
    for _ in range(4):
        repeated = RandomRotation().apply(repeated, one, torch.zeros(64))
    assert torch.equal(repeated, images)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_an_angle_of_a_quarter_is_a_quarter(quarters: int) -> None:
    images = torch.rand(4, 3, 8, 8)
    turned = RandomRotation(quarters=False, degrees=180.0).apply(
        images, torch.zeros(4, dtype=torch.int64), torch.full((4,), 90.0 * quarters)
    )
    torch.testing.assert_close(turned, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_a_scale_of_two_shows_the_middle_at_twice_its_size() -> None:
    ramp = (torch.arange(16.0) / 16).expand(1, 1, 16, 16)
    middle = RandomScale(2.0, 2.0).apply(ramp, torch.tensor([2.0]))
    torch.testing.assert_close(middle[0, 0, 0], (torch.arange(16.0) / 2 + 3.75) / 16)


def test_cutout_is_one_square_of_the_stated_length_anywhere_inside() -> None:
    images = torch.rand(400, 3, 8, 8) * 0.5
    results = augmented(Cutout(length=5, fill=1.0), images)
    changed = results != images
    assert (results[changed] == 1).all()
    assert torch.equal(changed.all(1), changed.any(1))
    lines, columns = changed[:, 0].any(2), changed[:, 0].any(1)
    assert (lines.sum(1) == 5).all()
    assert (columns.sum(1) == 5).all()
    assert (changed[:, 0].sum((1, 2)) == 25).all()
    assert len({tuple(places) for places in zip(lines.long().argmax(1), columns.long().argmax(1), strict=True)}) == 400
    assert {int(first) for first in lines.long().argmax(1)} == {0, 1, 2, 3}


def test_augmix_of_one_chain_is_on_the_line_between_the_image_and_the_chain() -> None:
    images = torch.rand(6, 3, 12, 12)
    method = AugMix(width=1)
    mixed, shares, *chain = method.draw(6, keyed_generator(3))
    end = method.apply(images, torch.ones(6), shares, *chain)
    assert torch.equal(shares, torch.ones(6, 1))
    assert torch.equal(method.apply(images, torch.zeros(6), shares, *chain), images)
    expected = images + mixed[:, None, None, None] * (end - images)
    torch.testing.assert_close(method.apply(images, mixed, shares, *chain), expected, rtol=0, atol=1e-6)


def test_augmix_draws_weights_that_add_up_and_chains_of_every_length() -> None:
    mixed, shares, lengths, operations, strengths, signs = AugMix().draw(2000, keyed_generator(0))
    torch.testing.assert_close(shares.sum(1), torch.ones(2000))
    assert abs(shares.var(0) - 1 / 18).max() < 0.01  # of Dirichlet(1, 1, 1): 2 / (9 · 4)
    assert abs(mixed.var() - 1 / 12) < 0.01
    assert lengths.unique().tolist() == [1, 2, 3]
    assert operations.unique().tolist() == list(range(9))
    assert 0.1 <= strengths.min() <= strengths.max() <= 3
    assert signs.unique().tolist() == [-1, 1]


@pytest.mark.parametrize("strength", [0.1, 1.7, 3.0, 9.9])
@pytest.mark.parametrize("name", ["AUTOCONTRAST", "EQUALIZE", "POSTERIZE", "SOLARIZE"])
def test_grey_levels_are_mapped_as_pillow_maps_them(name: str, strength: float) -> None:
    generator = keyed_generator(1)
    images = torch.randint(20, 200, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images[0], images[1, 0], images[2] = 7, 9, images[2] // 40 * 40  # one grey, one channel of one grey, few levels
    reference = {
        "AUTOCONTRAST": ImageOps.autocontrast,
        "EQUALIZE": ImageOps.equalize,
        "POSTERIZE": lambda image: ImageOps.posterize(image, 4 - int(strength * 4 / 10)),
        "SOLARIZE": lambda image: ImageOps.solarize(image, 256 - int(strength * 256 / 10)),
    }[name]
    kind = torch.full((8,), getattr(augmix, f"_{name}"))
    found = augmix._map_levels(images.float() / 255, kind, torch.full((8,), strength), torch.ones(8))
    for image, result in zip(images, found, strict=True):
        pillow = reference(Image.fromarray(image.permute(1, 2, 0).numpy()))
        expected = torch.frombuffer(bytearray(pillow.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
        assert torch.equal((result * 255).round().to(torch.uint8), expected)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", ["ROTATE", "SHEAR_X", "SHEAR_Y", "TRANSLATE_X", "TRANSLATE_Y"])
def test_pixels_are_moved_as_pillow_moves_them(name: str, sign: int) -> None:
    strength = 2.6
    image = Image.fromarray((warp(torch.rand(1, 1, 4, 4), torch.eye(2)[None])[0, 0] * 255).byte().numpy())
    image = image.resize((24, 24), Image.Resampling.BICUBIC)
    shear, pixels = sign * strength * 0.03, sign * int(strength * 24 / 30)
    settings = {"resample": Image.Resampling.BILINEAR}
    expected = {
        "ROTATE": lambda: image.rotate(sign * int(strength * 3), **settings),
        "SHEAR_X": lambda: image.transform((24, 24), Image.Transform.AFFINE, (1, shear, 0, 0, 1, 0), **settings),
        "SHEAR_Y": lambda: image.transform((24, 24), Image.Transform.AFFINE, (1, 0, 0, shear, 1, 0), **settings),
        "TRANSLATE_X": lambda: image.transform((24, 24), Image.Transform.AFFINE, (1, 0, pixels, 0, 1, 0), **settings),
        "TRANSLATE_Y": lambda: image.transform((24, 24), Image.Transform.AFFINE, (1, 0, 0, 0, 1, pixels), **settings),
    }[name]()
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 1, 24, 24) / 255
    kind = torch.tensor([getattr(augmix, f"_{name}")])
    found = augmix._move(levels, kind, torch.tensor([strength]), torch.tensor([sign]))[0, 0]
    reference = torch.frombuffer(bytearray(expected.tobytes()), dtype=torch.uint8).view(24, 24) / 255
    inside = slice(4, -4)  # the border is interpolated with black, and in Pillow cut off
    assert abs(reference - levels[0, 0])[inside, inside].max() > 0.05
    assert abs(found - reference)[inside, inside].max() < 0.01


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda: Augmentations(crop=torch.rand), "crop is no augmentation"),
        (lambda: RandomCropFlip(padding=-1), "padding"),
        (lambda: Cutout(length=-1), "length"),
        (lambda: Cutout(fill=2.0), "fill"),
        (lambda: augmented(Cutout(length=9), torch.rand(1, 3, 8, 8)), "exceeds"),
        (lambda: RandomRotation(degrees=200.0), "degrees"),
        (lambda: RandomScale(1.25, 0.8), "ascend"),
        (lambda: AugMix(width=0), "width"),
        (lambda: AugMix(severity=11.0), "severity"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong: object, word: str) -> None:
    with pytest.raises(UserError, match=word):
        wrong()  # type: ignore[operator]


def test_choices_stand_in_the_configuration_and_are_built_in_their_order() -> None:
    assert load_config("train").data.augmentation is None
    several = instantiate(load_config("train", ["augmentation=[cutout,crop_flip]"]).data).augmentation
    assert list(several.steps) == ["cutout", "crop_flip"]
    images, generator = torch.rand(4, 3, 32, 32), keyed_generator(5)
    expected = images
    for step in (Cutout(), RandomCropFlip()):
        expected = step.apply(expected, *step.draw(4, generator))
    assert torch.equal(several(images, keyed_generator(5)), expected)


@pytest.mark.parametrize("kind", [AugMix(), Cutout(), RandomCropFlip(), RandomRotation(), RandomScale()])
def test_each_choice_has_the_defaults_of_its_class(kind: Augmentation) -> None:
    names = {AugMix: "augmix", Cutout: "cutout", RandomCropFlip: "crop_flip", RandomRotation: "rotation"}
    name = names.get(type(kind), "scale")
    (found,) = instantiate(load_config("train", [f"augmentation={name}"]).data).augmentation.steps.values()
    assert found == kind
