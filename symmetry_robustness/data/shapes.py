"""The embedded data set: ten shapes drawn by code, so that everything can be tried and tested without a download."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from symmetry_robustness.data.loaders import Batch, Split
from symmetry_robustness.data.module import ImageDataModule
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.settings import checked

SIZE = 32
_SAMPLES = 3  # per pixel and axis; the mean of the nine smooths the edges
_MOST = 1_000_000  # images of a split, 3 GB
_CHUNK = 256  # images drawn at once, about 10 MB for each intermediate tensor
_TRAIN, _TEST = 11, 12

Inside = Callable[[Tensor, Tensor], Tensor]


def _polygon(corners: int) -> Inside:
    """A regular polygon with its corners on the unit circle."""
    half = math.pi / corners

    def inside(x: Tensor, y: Tensor) -> Tensor:
        angle = torch.atan2(y, x).remainder(2 * half) - half
        return torch.hypot(x, y) * torch.cos(angle) < math.cos(half)

    return inside


def _star(x: Tensor, y: Tensor) -> Tensor:
    """A star with five straight-edged points; the inner corners lie at 0.38, as in a pentagram."""
    half = math.pi / 5
    angle = (torch.atan2(y, x).remainder(2 * half) - half).abs()
    # The edge runs from the inner corner (angle 0) to the tip (angle half).
    radius, inner = torch.hypot(x, y), 0.382
    along, across = radius * torch.cos(angle), radius * torch.sin(angle)
    tip_along, tip_across = math.cos(half), math.sin(half)
    return (along - inner) * tip_across < across * (tip_along - inner)


# Each takes coordinates in units of the shape's size. The ten differ in topology (ring, two discs), in the order of
# their rotational symmetry (none, 2, 3, 4, 5, all) or in convexity, so no rotation or scaling maps one onto another.
SHAPES: dict[str, Inside] = {
    "disc": lambda x, y: torch.hypot(x, y) < 0.85,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.72).abs() < 0.24,
    "triangle": _polygon(3),
    "square": _polygon(4),
    "star": _star,
    "cross": lambda x, y: (torch.minimum(x.abs(), y.abs()) < 0.27) & (torch.maximum(x.abs(), y.abs()) < 0.92),
    "crescent": lambda x, y: (torch.hypot(x, y) < 0.92) & (torch.hypot(x - 0.42, y) > 0.72),
    "two_discs": lambda x, y: torch.hypot(x.abs() - 0.55, y) < 0.4,
    "bar": lambda x, y: (x.abs() < 1.0) & (y.abs() < 0.3),
    "corner": lambda x, y: (torch.maximum(x.abs(), y.abs()) < 0.75) & (torch.minimum(x, y) < -0.2),
}


@dataclass(frozen=True)
class ShapeStyle:
    """How hard the images are.

    Args:
        pose: "any" turns each shape at random, "upright" draws it as `SHAPES` defines it and changes nothing else.
        radius: Smallest and largest size of a shape, in pixels.
        contrast: Smallest and largest distance of the shape's colour from the background's, per channel in [0, 1].
        stripes: Largest amplitude of the stripes on shape and background.
        clouds: Largest amplitude of the background's slow variation.
        noise: Standard deviation of the pixel noise.
    """

    pose: Literal["any", "upright"] = "any"
    radius: tuple[float, float] = (8.5, 13.5)
    contrast: tuple[float, float] = (0.3, 0.55)
    stripes: float = 0.03
    clouds: float = 0.05
    noise: float = 0.02

    def __post_init__(self) -> None:
        if self.pose not in ("any", "upright"):
            raise UserError(f"data.pose={self.pose!r} is unknown; choose any or upright")


def draw_shapes(labels: Tensor, style: ShapeStyle, generator: torch.Generator) -> Tensor:
    """Draw one image for each label at a random pose, in random colours and textures.

    Args:
        labels: int64 (N,), indices into `SHAPES`.
        style: How hard the images are.
        generator: Of everything that is random.

    Returns:
        uint8 (N, 3, 32, 32).
    """
    images = torch.empty(len(labels), 3, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, len(labels), _CHUNK):
        part = labels[start : start + _CHUNK]
        images[start : start + _CHUNK] = _paint(_coverage(part, style, generator), style, generator)
    return images


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _coverage(labels: Tensor, style: ShapeStyle, generator: torch.Generator) -> Tensor:
    """The fraction of each pixel that the shape covers, (N, 1, 32, 32) in [0, 1]."""
    count, fine = len(labels), SIZE * _SAMPLES
    angle = _uniform(0, 2 * math.pi, (count, 1, 1), generator)
    if style.pose == "upright":  # drawn nevertheless, so that nothing else of the images changes
        angle = torch.zeros_like(angle)
    radius = _uniform(*style.radius, (count, 1, 1), generator)
    # The whole shape stays inside the image.
    shift = (SIZE / 2 - radius) * _uniform(-1, 1, (2, count, 1, 1), generator)
    grid = (torch.arange(fine) + 0.5) / _SAMPLES - SIZE / 2
    x, y = (grid - shift[0]) / radius, (grid[:, None] - shift[1]) / radius
    cosine, sine = torch.cos(angle), torch.sin(angle)
    x, y = cosine * x + sine * y, cosine * y - sine * x
    covered = torch.zeros(count, fine, fine)
    for label, inside in enumerate(SHAPES.values()):
        rows = (labels == label).nonzero().flatten()
        covered[rows] = inside(x[rows], y[rows]).float()
    return functional.avg_pool2d(covered[:, None], _SAMPLES)


def _stripes(count: int, style: ShapeStyle, generator: torch.Generator) -> Tensor:
    """A plane wave of random direction, period and strength, (N, 1, 32, 32)."""
    angle = _uniform(0, 2 * math.pi, (count, 1, 1, 1), generator)
    frequency = 2 * math.pi / _uniform(3, 10, (count, 1, 1, 1), generator)
    strength = _uniform(0, style.stripes, (count, 1, 1, 1), generator)
    line = torch.arange(SIZE) - SIZE / 2
    phase = frequency * (torch.cos(angle) * line + torch.sin(angle) * line[:, None])
    return strength * torch.sin(phase + _uniform(0, 2 * math.pi, (count, 1, 1, 1), generator))


def _paint(coverage: Tensor, style: ShapeStyle, generator: torch.Generator) -> Tensor:
    """Colour shape and background, (N, 3, 32, 32) uint8."""
    count = len(coverage)
    background = _uniform(0.2, 0.8, (count, 3, 1, 1), generator)
    step = _uniform(*style.contrast, (count, 3, 1, 1), generator)
    # Away from the nearer end of the range, so that the colour is not clipped; one channel in four goes the other way.
    sign = torch.where(background < 0.5, 1.0, -1.0) * torch.where(
        _uniform(0, 1, (count, 3, 1, 1), generator) < 0.25, -0.4, 1.0
    )
    clouds = style.clouds * _uniform(-1, 1, (count, 3, 4, 4), generator)
    clouds = functional.interpolate(clouds, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
    ground = background + clouds + _stripes(count, style, generator)
    figure = background + sign * step + _stripes(count, style, generator)
    image = torch.lerp(ground, figure, coverage)
    image = image + style.noise * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def make_shapes(size: int, seed: int, part: int, style: ShapeStyle | None = None) -> Batch:
    """A balanced set of shapes in random order.

    Args:
        size: Number of images.
        seed: Of everything.
        part: Keeps training and test images apart.
        style: How hard the images are; None for the default.

    Returns:
        uint8 (N, 3, 32, 32) and int64 (N,).
    """
    generator = keyed_generator(seed, 0, part)
    labels = torch.arange(size).remainder(len(SHAPES))[torch.randperm(size, generator=generator)]
    return draw_shapes(labels, style or ShapeStyle(), generator), labels


@checked
@dataclass(kw_only=True, eq=False, repr=False)
class ShapesDataModule(ImageDataModule):
    """Ten shapes at random pose, colour and texture, drawn when first needed. More settings: `ImageDataModule`.

    Args:
        train_size: Number of training images to draw.
        validation_size: Number of validation images to draw; 0 leaves no validation loader.
        test_size: Number of test images to draw.
        drawing_seed: Of the images, so that runs with different seeds share one data set.
        pose: "any" turns each shape at random, "upright" leaves all as they are defined, in training as in the test.

    Raises:
        UserError: if a size is out of range.
    """

    class_names: Sequence[str] = field(init=False, default=tuple(SHAPES))
    train_size: int = 10_000
    validation_size: int = 1_000
    test_size: int = 2_000
    drawing_seed: int = 0
    pose: Literal["any", "upright"] = "any"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size != SIZE:
            raise UserError(f"data.image_size={self.image_size}, but shapes are drawn on {SIZE} pixels; set it to that")
        for name, least in {"test_size": 1, "drawing_seed": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)} is too small; choose a larger number")
        for name in ("train_size", "validation_size", "test_size"):
            if (value := getattr(self, name)) > _MOST:
                raise UserError(f"data.{name} must be at most {_MOST:,}, which are 3 GB, got {value:,}; choose fewer")
        self.style = ShapeStyle(pose=self.pose)

    @property
    def origin(self) -> str:
        """The data set, the seed it was drawn from, and whether its shapes stand upright."""
        return f"{'upright ' if self.style.pose == 'upright' else ''}shapes, drawn from seed {self.drawing_seed}"

    def load_train(self) -> Batch:
        """Draw the training and the validation images."""
        return make_shapes(self.train_size + self.validation_size, self.drawing_seed, _TRAIN, self.style)

    def load_test(self) -> list[Split]:
        """Draw the test images."""
        images, labels = make_shapes(self.test_size, self.drawing_seed, _TEST, self.style)
        return [Split("test", images, labels, torch.arange(self.test_size))]
