"""The drawn data set is deterministic, balanced, and its classes stay apart under rotation and scaling."""

import itertools
import math

import pytest
import torch

from symmetry_robustness.data import ShapesDataModule
from symmetry_robustness.data.shapes import SHAPES, ShapeStyle, draw_shapes, make_shapes
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator

# Of twenty images drawn from seed 0.
LABELS = [3, 9, 0, 4, 7, 9, 3, 1, 8, 8, 4, 6, 1, 2, 5, 6, 7, 5, 2, 0]
MEANS = [
    90.76,
    156.86,
    128.6,
    141.34,
    159.75,
    111.49,
    134.55,
    106.78,
    123.7,
    162.59,
    122.51,
    121.58,
    112.05,
    148.94,
    154.44,
    124.81,
    124.02,
    127.42,
    99.08,
    130.47,
]


def test_drawing_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    images, labels = make_shapes(300, 0, 1)
    again, _ = make_shapes(300, 0, 1)
    assert torch.equal(images, again)
    assert torch.equal(before, torch.get_rng_state())
    assert images.shape == (300, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [30] * 10


def test_drawing_is_the_same_on_every_machine() -> None:
    images, labels = make_shapes(20, 0, 1)
    assert labels.tolist() == LABELS
    # Sine and cosine may differ in the last bit between processors, which moves single pixels by one step.
    assert torch.allclose(images.float().mean((1, 2, 3)), torch.tensor(MEANS), atol=0.1)


def test_seeds_and_parts_differ() -> None:
    images = [make_shapes(50, seed, part)[0] for seed, part in ((0, 1), (1, 1), (0, 2))]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(images, 2))


def rasterise(name: str, angle: float, scale: float) -> torch.Tensor:
    line = torch.linspace(-2, 2, 61)
    x, y = line[None, :] / scale, line[:, None] / scale
    x, y = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    return SHAPES[name](x, y)


def centred(mask: torch.Tensor) -> torch.Tensor:
    rows, columns = mask.nonzero().float().mean(0).round().int().tolist()
    return mask.roll((30 - rows, 30 - columns), (0, 1))


def test_no_rotation_or_scaling_maps_a_class_onto_another() -> None:
    """The best overlap (intersection over union) of centred shapes at equal area stays well below one.

    At unequal area it is bounded by the ratio of the areas, so equal area is the best scale to within the bound.
    """
    angles = [index * math.pi / 15 for index in range(30)]
    area = {name: rasterise(name, 0, 1).sum().item() for name in SHAPES}
    for first, second in itertools.combinations(SHAPES, 2):
        one = centred(rasterise(first, 0, 1))
        best = 0.0
        for relative in (0.9, 1.0, 1.1):
            scale = math.sqrt(area[first] / area[second]) * relative
            other = torch.stack([centred(rasterise(second, angle, scale)) for angle in angles])
            overlap = (one & other).sum((1, 2)) / (one | other).sum((1, 2))
            best = max(best, overlap.max().item())
        assert best < 0.88, (first, second, best)


def test_a_turn_of_the_pose_changes_no_class() -> None:
    mask = rasterise("star", 0, 1)
    turned = rasterise("star", 2 * math.pi / 5, 1)
    assert ((mask & turned).sum() / (mask | turned).sum()) > 0.95


def test_shapes_lie_inside_the_image() -> None:
    style = ShapeStyle(contrast=(0.4, 0.4), stripes=0, clouds=0, noise=0)
    images = draw_shapes(torch.arange(10).repeat(20), style, keyed_generator(0)).int()
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], 2)
    background = images.flatten(2).mode(2).values
    share = (border != border.mode(2).values[:, :, None]).float().mean((1, 2))
    assert (share < 0.2).all()
    assert background.shape == (200, 3)


def test_module_draws_what_is_asked_for() -> None:
    data = ShapesDataModule(num_classes=10, train_size=40, validation_size=20, test_size=30)
    assert (len(data.subset("train", None, 0)[1]), len(data.subset("validation", None, 0)[1])) == (40, 20)
    assert len(data.subset("test", None, 0)[1]) == 30
    other = ShapesDataModule(num_classes=10, train_size=40, validation_size=20, test_size=30, seed=1)
    assert torch.equal(data.subset("test", None, 0)[0], other.subset("test", None, 0)[0])


def test_upright_images_differ_by_the_angle_alone() -> None:
    (turned, labels), (upright, same) = make_shapes(400, 0, 1), make_shapes(400, 0, 1, ShapeStyle(pose="upright"))
    assert torch.equal(labels, same)
    round_ones = (labels == list(SHAPES).index("disc")) | (labels == list(SHAPES).index("ring"))
    changed = (turned != upright).float().mean((1, 2, 3))
    assert (changed[round_ones] < 0.005).all()  # rounding may move a sample over an edge
    assert (changed[~round_ones] > 0.01).float().mean() > 0.9


def test_upright_bars_lie_on_their_side() -> None:
    style = ShapeStyle(pose="upright", stripes=0, clouds=0, noise=0)
    images = draw_shapes(torch.full((50,), list(SHAPES).index("bar")), style, keyed_generator(0)).int()
    drawn = (images != images.flatten(2).mode(2).values[:, :, None, None]).any(1)
    assert (drawn.any(1).sum(1) > 2 * drawn.any(2).sum(1)).all()  # columns and rows that the bar touches


def test_the_pose_is_stated_and_holds_for_every_split() -> None:
    sizes = {"train_size": 40, "validation_size": 20, "test_size": 30}
    upright, turned = (
        ShapesDataModule(num_classes=10, **sizes, pose="upright"),
        ShapesDataModule(num_classes=10, **sizes),
    )
    assert str(upright) == "upright shapes, drawn from seed 0"
    for split in ("train", "validation", "test"):
        assert not torch.equal(upright.subset(split, None, 0)[0], turned.subset(split, None, 0)[0])
    with pytest.raises(UserError, match=r"data\.pose"):
        ShapesDataModule(num_classes=10, pose="sideways")


def test_classes_are_learnable_from_shape_alone() -> None:
    """Mean colour says nothing of the class, so nothing but the shape can be learned."""
    images, labels = make_shapes(2_000, 0, 1)
    colour = images.float().mean((2, 3)) / 255
    means = torch.stack([colour[labels == label].mean(0) for label in range(10)])
    assert (means - colour.mean(0)).abs().max() < 0.08
