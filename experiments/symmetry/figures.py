"""Prints every number of docs/symmetry.md and draws its figures: `python experiments/symmetry/figures.py`.

Seeds are fixed; networks are untrained, or trained for seconds on upright shapes, as the page says of each.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from symmetry_robustness import build_network, load_config
from symmetry_robustness.data.shapes import ShapeStyle, make_shapes
from symmetry_robustness.layers.export import export
from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.layers.groups import FieldType
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.layers.scale import MultiScaleConv, ScaleConv, ScaleLifting, downsample_fields
from symmetry_robustness.layers.scale_group import ScaleGroup
from symmetry_robustness.models.equivariant import EquivariantNetwork, rotation_block
from symmetry_robustness.models.network import Network
from symmetry_robustness.models.stems import ConvStem, ScaleStem
from symmetry_robustness.reporting.figures import COLORS as COLORS
from symmetry_robustness.reporting.figures import MARKERS as MARKERS
from symmetry_robustness.resampling import downsample
from symmetry_robustness.robustness import EquivarianceError
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.robustness.measures.equivariance import relative_error

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SEEDS = (0, 1, 2)
TRAIN_IMAGES, TEST_IMAGES, EPOCHS, BATCH = 2000, 200, 6, 64
ANGLES = tuple(range(15, 360, 15))


def main() -> None:
    """All sections of the page, in its order."""
    torch.set_num_threads(1)
    quarter_turns()
    angles_and_heads()
    strides()
    borders()
    scales()


# --- what is measured ------------------------------------------------------------------------------------------------


def shapes(count: int, part: int) -> tuple[Tensor, Tensor]:
    """Upright shapes, float32 (N, 3, 32, 32) in [0, 1], and labels (N,)."""
    images, labels = make_shapes(count, 0, part, ShapeStyle(pose="upright"))
    return images.float() / 255, labels


def natural(size: int = 80, finest: float = 1.0) -> Tensor:
    """Random images (4, 3, size, size) with amplitude 1/frequency, up to a share of what the grid can hold."""
    frequency = torch.fft.fftfreq(size)
    radius = torch.hypot(frequency[:, None], frequency)
    kept = (radius > 0) & ((radius < finest / 2) | (finest == 1))
    images = torch.fft.ifft2(torch.where(kept, torch.fft.fft2(torch.randn(4, 3, size, size)) / radius, 0)).real
    return images / images.std()


def drawn() -> Tensor:
    """Shapes in any pose, each channel's mean removed, mirrored at their borders; (4, 3, 94, 94)."""
    images = make_shapes(4, seed=0, part=0)[0].float() / 255
    return F.pad(images - images.mean(dim=(2, 3), keepdim=True), [31] * 4, mode="reflect")


def calibrate(network: nn.Module, images: Tensor) -> nn.Module:
    """Evaluation mode, with batch norm statistics of these images."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def train(network: nn.Module, seed: int) -> nn.Module:
    """Train for seconds on upright shapes; returns the exported network."""
    images, labels = shapes(TRAIN_IMAGES, 11)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN_IMAGES, generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return export(network)


def measure(network: nn.Module, count: int, symmetry: EquivarianceError) -> Arrays:
    """Results of `robustness=symmetry` on upright test shapes."""
    images, labels = shapes(count, 12)
    return symmetry.compute(MeasureInputs(network, images, labels, np.arange(count)))


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Smallest and largest of the seeds, or the one number that they are."""
    shown = [f"{value:.{digits}g}" for value in sorted(values)]
    return shown[0] if shown[0] == shown[-1] else f"{shown[0]} – {shown[-1]}"


# --- 1: networks under quarter turns ---------------------------------------------------------------------------------

MODELS = (
    "standard_4layer",
    "parallel_rotation_4layer",
    "weighted_4layer",
    "cascaded_4layer",
    "fully_equivariant_4layer",
    "fully_equivariant_4layer model.head=invariant",
    "invariant_4layer",
    "invariant_4layer model.group=D4 model.fields=5",
    "roto_scale_4layer",
)


def quarter_turns() -> None:
    """Largest mean error over the quarter turns, of every convolution of the stem and of logits and gradient."""
    print("\n1. quarter turns, untrained, seed 0, 16 images")
    for model in MODELS:
        torch.manual_seed(0)
        network = build_network(load_config("train", ["data=shapes", f"model={model.split()[0]}", *model.split()[1:]]))
        network = calibrate(network, shapes(64, 11)[0])
        found = measure(network, 16, EquivarianceError(layers=True))
        print(f"  {model}")
        for name, errors in found.items():
            if name.startswith(("turn.error.stem", "turn.error.logits", "turn.gradient_error")):
                print(f"    {name}: {errors.mean(0).max():.2g}")


# --- 2 and 5: angles and heads ---------------------------------------------------------------------------------------


def rotation_network(group: str, fields: int, head: str = "invariant") -> EquivariantNetwork:
    """Depth and pools of `standard_4layer`."""
    return EquivariantNetwork(
        group, fields, ["pool", 2 * fields, "pool", 2 * fields, 4 * fields], head, 10, mean=0.5, std=0.5
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Network(ConvStem(16), ["pool", 32, "pool", 32, 64], 10, mean=0.5, std=0.5),
    "C4, invariant head": lambda: rotation_network("C4", 4),
    "C8, invariant head": lambda: rotation_network("C8", 4),
    "C4, released head": lambda: rotation_network("C4", 4, "released"),
}


def angles_and_heads() -> None:
    """Networks trained upright: error of the logits over the angle, and predictions kept."""
    print(f"\n2 and 5. trained on {TRAIN_IMAGES} upright shapes, {EPOCHS} epochs; {TEST_IMAGES} test images; seed 0")
    curves, floors = {}, []
    for name, build in NETWORKS.items():
        runs = []
        for seed in SEEDS[:1]:  # training takes most of the time
            torch.manual_seed(seed)
            runs.append(measure(train(build(), seed), TEST_IMAGES, EquivarianceError(angles=ANGLES)))
        show_network(name, runs)
        curves[name] = np.mean([run["rotation.error.logits"].mean(0) for run in runs], axis=0)
        floors.append(np.mean([run["rotation.floor.logits"].mean(0) for run in runs], axis=0))
    draw_angles({name: curve for name, curve in curves.items() if "released" not in name}, np.array(floors[:3]))


def show_network(name: str, runs: Sequence[Arrays]) -> None:
    """Ranges over the seeds."""
    print(f"  {name}")
    for label in ("turn.error.logits", "turn.gradient_error"):
        print(f"    {label}: {spread(run[label].mean() for run in runs)}")
    for label in ("turn.correct", "turn.consistent", "disc.correct"):
        print(f"    {label} %: {spread((100 * run[label].mean() for run in runs), 3)}")
    kinds = {"quarter": 90, "45 + 90 k": 45, "others": 15}
    for kind, step in kinds.items():
        coarser = [angle for angle in kinds.values() if angle > step]
        chosen = [
            index
            for index, angle in enumerate(ANGLES)
            if angle % step == 0 and not any(angle % larger == 0 for larger in coarser)
        ]
        for label in ("error.logits", "floor.logits", "consistent"):
            factor = 100 if label == "consistent" else 1
            values = [factor * run[f"rotation.{label}"][:, chosen].mean() for run in runs]
            print(f"    disc, {kind}, {label}: {spread(values, 3 if factor == 100 else 2)}")


def draw_angles(curves: dict[str, np.ndarray], floors: np.ndarray) -> None:
    """Error over the angle, the floors as a band; what is below 1e-6 is next to exact and drawn there."""
    figure = Figure(figsize=(6.6, 3.8), layout="constrained")
    panel = figure.subplots()
    for index, (name, values) in enumerate(curves.items()):
        panel.plot(
            ANGLES, np.maximum(values, 1e-6), color=COLORS[index], marker=MARKERS[index], markersize=4, label=name
        )
    panel.fill_between(
        ANGLES, *np.maximum((floors.min(0), floors.max(0)), 1e-6), color="0.6", alpha=0.5, linewidth=0, label="floors"
    )
    panel.set(
        yscale="log",
        ylim=(7e-7, 4),
        xticks=range(0, 361, 45),
        xlabel="rotation of the image, degrees",
        ylabel="relative squared error of the logits",
    )
    panel.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize="x-small")
    figure.savefig(IMAGES / "symmetry_angles.png", dpi=120)


# --- 3: pools and strides --------------------------------------------------------------------------------------------


def strides() -> None:
    """A C4 lifting with ReLU, then something that halves: error of its output, and of the group-pooled mean."""
    print("\n3. after a C4 layer with ReLU, untrained, 64 shapes, 3 seeds: error of the map, of the invariant mean")
    group = FieldType("C4", "regular", 4)
    images = F.pad(shapes(64, 12)[0], (0, 1, 0, 1), mode="reflect")
    images = images - images.mean(dim=(2, 3), keepdim=True)

    def error(halve: Callable[[Tensor], Tensor], lifting: nn.Module, size: int) -> tuple[float, float]:
        cut = images[..., :size, :size]
        still, pairs = halve(lifting(cut)), []
        for turns in range(1, 4):
            expected, turned = group.act(still, turns), halve(lifting(torch.rot90(cut, turns, (-2, -1))))
            means = [maps.mean((2, 3)).unflatten(1, (4, 4)).amax(1) for maps in (turned, expected)]
            pairs.append((relative_error(turned, expected).mean().item(), relative_error(*means).mean().item()))
        return tuple(np.mean(pairs, axis=0))  # type: ignore[return-value]

    operations = {
        "2×2 max pool": lambda maps, kernel: F.max_pool2d(maps, 2),
        "3×3 max pool, stride 2": lambda maps, kernel: F.max_pool2d(maps, 3, 2, 1),
        "3×3 C4 convolution, stride 2": lambda maps, kernel: F.conv2d(maps, kernel, stride=2, padding=1),
    }
    for name, operation in operations.items():
        for size in (32, 33):
            found = []
            for seed in SEEDS:
                torch.manual_seed(seed)
                lifting = nn.Sequential(RotationConv("C4", 3, 4, in_representation="trivial"), nn.ReLU())
                kernel = RotationConv("C4", 4, 4).expand()[0]
                with torch.no_grad():
                    found.append(error(lambda maps, o=operation, k=kernel: o(maps, k), lifting, size))
            print(f"  {name}, {size} pixels: {' | '.join(spread(column) for column in zip(*found, strict=True))}")


# --- 4: borders ------------------------------------------------------------------------------------------------------


def by_distance(first: Tensor, second: Tensor, distance: Tensor, places: Iterable[int]) -> list[float]:
    """Relative error |a - b|² / |b|² of maps (..., H, H) in rings of pixels at a rounded distance (H, H)."""
    rings = [distance.round() == place for place in places]
    return [((first - second).square()[..., ring].sum() / second.square()[..., ring].sum()).item() for ring in rings]


@torch.no_grad()
def borders() -> None:
    """Error of one layer and of three over the distance from the border."""
    print("\n4. over the distance from the border, natural images, untrained, mean of 3 seeds")
    inside, circle = range(28), range(-2, 25)
    scaled, rotated = {}, {}
    for depth in (1, 3):
        runs = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            images = natural()
            network = calibrate(scale_stack(depth), images)
            moved = downsample_fields(network(images), SCALES).unflatten(1, (3, -1))[:, :2]
            again = network(downsample(images, SCALES.step)).unflatten(1, (3, -1))[:, :2]
            place = torch.arange(moved.shape[-1])
            edge = torch.minimum(place, place.flip(0))
            runs.append(by_distance(again, moved, torch.minimum(edge[:, None], edge), inside))
        scaled[depth] = np.mean(runs, axis=0)
        runs = [rotation_by_distance(depth, seed, circle) for seed in SEEDS]
        rotated[depth] = np.mean(runs, axis=0)
        print(f"  depth {depth}, scale √½, 0 to 27 pixels:", " ".join(f"{value:.2g}" for value in scaled[depth]))
        print(f"  depth {depth}, 45°, -2 to 24 pixels:", " ".join(f"{value:.2g}" for value in rotated[depth]))
    draw_borders(inside, scaled, circle, rotated)


def rotation_by_distance(depth: int, seed: int, places: Iterable[int]) -> list[float]:
    """C8 layers and a rotation by 45° that makes the corners of the frame zero; over the distance from the circle."""
    torch.manual_seed(seed)
    images, group = natural(64, finest=0.5), FieldType("C8", "regular", 4)
    first = FieldType("C8", "trivial", 3)
    network = nn.Sequential(rotation_block(first, group), *(rotation_block(group, group) for _ in range(depth - 1)))
    calibrate(network, images)
    image_type = FieldType("C8", "trivial", 3)
    expected, again = group.act(network(images), 1), network(image_type.act(images, 1))
    place = torch.arange(64) - 31.5
    return by_distance(again, expected, 32 - torch.hypot(place[:, None], place), places)


def draw_borders(inside: range, scaled: dict[int, np.ndarray], circle: range, rotated: dict[int, np.ndarray]) -> None:
    """Scale to the left, rotation to the right."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, places, curves in zip(panels, (inside, circle), (scaled, rotated), strict=True):
        for index, (depth, values) in enumerate(curves.items()):
            label = f"{depth} layer{'s' if depth > 1 else ''}"
            panel.plot(places, values, color=COLORS[index], marker=MARKERS[index], markersize=3.5, label=label)
        panel.set(yscale="log")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize="small")
    panels[1].axvspan(circle[0], 0, color="0.9", linewidth=0, zorder=0)
    panels[0].set(
        title="scale layers, image shrunk by √2",
        xlabel="distance from the border, pixels",
        ylabel="relative squared error",
    )
    panels[1].set(title="C8 layers, image rotated by 45°", xlabel="distance inside the inscribed circle, pixels")
    figure.savefig(IMAGES / "symmetry_border.png", dpi=120)


# --- 6: scale --------------------------------------------------------------------------------------------------------

SCALES = ScaleGroup()


def scale_stack(depth: int) -> nn.Sequential:
    """Scale convolutions with inner batch norm and ReLU."""
    layers: list[nn.Module] = [ScaleLifting(SCALES, 3, 8)]
    for _ in range(depth - 1):
        layers += [InnerBatchNorm(8, SCALES.order), nn.ReLU(), ScaleConv(SCALES, 8, 8)]
    return nn.Sequential(*layers, InnerBatchNorm(8, SCALES.order), nn.ReLU())


def plain_stack(kernel_size: int, depth: int) -> nn.Sequential:
    """Plain convolutions with batch norm and ReLU, as many channels as `scale_stack` has."""
    blocks = [
        (nn.Conv2d(ins, outs, kernel_size, padding="same"), nn.BatchNorm2d(outs), nn.ReLU())
        for ins, outs in pairwise([3, *[24] * depth])
    ]
    return nn.Sequential(*[module for block in blocks for module in block])


# Name -> whether its features are fields of the scale group, and what builds it.
SCALED: dict[str, tuple[bool, Callable[[], nn.Module]]] = {
    "plain 9×9 convolution": (False, lambda: nn.Conv2d(3, 24, 9, padding="same")),
    "plain 3×3 convolution": (False, lambda: nn.Conv2d(3, 24, 3, padding="same")),
    "plain 9×9, three with ReLU": (False, lambda: plain_stack(9, 3)),
    "plain 3×3, three with ReLU": (False, lambda: plain_stack(3, 3)),
    "MultiScaleConv": (False, lambda: MultiScaleConv(8)),
    "ScaleStem, pooled": (False, lambda: ScaleStem(8, pooled=True)),
    "ScaleLifting": (True, lambda: ScaleLifting(SCALES, 3, 8)),
    "ScaleLifting, ScaleConv": (True, lambda: nn.Sequential(ScaleLifting(SCALES, 3, 4), ScaleConv(SCALES, 4, 5))),
    "scale layers, one with ReLU": (True, lambda: scale_stack(1)),
    "scale layers, two with ReLU": (True, lambda: scale_stack(2)),
    "scale layers, three with ReLU": (True, lambda: scale_stack(3)),
}


@torch.no_grad()
def scale_error(network: nn.Module, images: Tensor, has_fields: bool) -> float:
    """‖L Φ(f) - Φ(L f)‖² / ‖L Φ(f)‖², L one step, 14 pixels inside the border, below the last scale if there are."""
    moved, again = network(images), network(downsample(images, SCALES.step))
    if has_fields:
        moved, again = (maps.unflatten(1, (3, -1))[:, :2] for maps in (downsample_fields(moved, SCALES), again))
    else:
        moved = downsample(moved, SCALES.step)
    inside = (..., slice(14, -14), slice(14, -14))
    return ((moved[inside] - again[inside]).square().sum() / moved[inside].square().sum()).item()


def scales() -> None:
    """One step of √2: every layer on both kinds of images."""
    print("\n6. shrunk by √2, untrained, 3 seeds: natural | drawn")
    found: dict[str, dict[str, list[float]]] = {}
    for name, (has_fields, build) in SCALED.items():
        found[name] = {}
        for kind, make in (("natural", natural), ("drawn", drawn)):
            errors = []
            for seed in SEEDS:
                torch.manual_seed(seed)
                images = make()
                errors.append(scale_error(calibrate(build(), images), images, has_fields))
            found[name][kind] = errors
        print(f"  {name}: {' | '.join(spread(errors) for errors in found[name].values())}")
    draw_scales(found)


def draw_scales(found: dict[str, dict[str, list[float]]]) -> None:
    """One row per layer, one point per seed."""
    figure = Figure(figsize=(7.0, 3.9), layout="constrained")
    panel = figure.subplots()
    for index, kind in enumerate(("natural", "drawn")):
        points = [(error, row) for row, errors in enumerate(found.values()) for error in errors[kind]]
        values, rows = np.array(points).T
        label = "natural spectrum" if kind == "natural" else "drawn shapes"
        panel.plot(values, rows + 0.3 * index - 0.15, MARKERS[index], color=COLORS[index], markersize=4, label=label)
    panel.set_yticks(range(len(found)), list(found))
    panel.invert_yaxis()
    panel.axhline(5.5, color="0.6", linewidth=0.8)  # above: nothing of the group; below: its fields
    panel.set(xscale="log", xlim=(2e-4, 2), xlabel="relative squared error for an image shrunk by √2")
    panel.grid(alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize="small")
    figure.savefig(IMAGES / "symmetry_scale.png", dpi=120)


if __name__ == "__main__":
    main()
