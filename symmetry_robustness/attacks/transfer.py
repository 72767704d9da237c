"""PGD along gradients that carry over to other networks: momentum, lookahead, views, smoothing, variance tuning."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.attacks.base import CheckedAttack, Pass, class_to_leave, loss_gradient
from symmetry_robustness.attacks.gradient import PGD, LossName
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import ThreatModel
from symmetry_robustness.attacks.validation import check_logits
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource, sample
from symmetry_robustness.settings import checked

View = Callable[[Tensor], Tensor]
# Labels (B,) and the classes to be reached (B,), None where any other will do.
Classes = tuple[Tensor, Tensor | None]


class MomentumAttack(CheckedAttack):
    """An attack with the steps of PGD along gradients of its own."""

    steps: int
    step_size: float | str | None
    relative_step_size: float | None
    momentum: float
    loss: LossName
    targeted: bool

    @property
    def ascent(self) -> PGD:
        """The steps, given a gradient."""
        return PGD(
            steps=self.steps,
            step_size=self.step_size,
            relative_step_size=self.relative_step_size,
            momentum=self.momentum,
            loss=self.loss,
            targeted=self.targeted,
        )

    def reach(self, epsilon: float) -> float:
        """Steps times the length of one."""
        return self.ascent.reach(epsilon)


@final
@checked
@dataclass(frozen=True)
class TransferPGD(MomentumAttack):
    """PGD with momentum along a gradient that is less particular to the network it is taken of.

    The parts compose. With all of them neutral the attack is `PGD(momentum=momentum)` bit for bit; alone they are:
    momentum MI-FGSM (arXiv 1710.06081, alg. 1), lookahead NI and scales SI (arXiv 1908.06281, alg. 1 and eq. 7),
    diversity DI (arXiv 1803.06978, eq. 3), kernel TI (arXiv 1904.02884, eq. 7), neighbours VMI (arXiv 2103.15571,
    alg. 1). Random numbers belong to the image where each image has a generator.

    Args:
        steps: gradient steps.
        step_size: length of a step in pixel units; see `PGD`.
        relative_step_size: length of a step as a fraction of epsilon; without both it is 2.5 / steps.
        momentum: fraction of the accumulated direction that each step keeps.
        lookahead: take gradients at the point to which the accumulated direction leads (needs momentum).
        scales: the gradient is the mean over images divided by 1, 2, 4, ...; so many of them, 1 for the image alone.
        diversity: probability that a gradient sees the image smaller, at a random place on black.
        smallest: side of the smallest such image, as a fraction of the side of the image.
        kernel: side of the Gaussian window, in pixels, that smooths gradients; odd, 1 for none.
        kernel_deviations: standard deviations of the Gaussian from the centre of the window to its edge.
        neighbours: so many random neighbours; what their mean gradient has beyond the image's own corrects the gradient
            of the next step. 0 for none.
        neighbour_radius: distance within which neighbours are drawn, as a multiple of epsilon.
        loss: as of `PGD`.
        targeted: labels are the classes to be reached.

    Examples:
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> attacked = TransferPGD(neighbours=5)(nn.Flatten().eval(), images, labels, ThreatModel("linf", "20/255"))
        >>> ((attacked - images) * 255).flatten().round()
        tensor([-20.,  20.,  20.])
    """

    steps: int = 10
    step_size: float | str | None = None
    relative_step_size: float | None = None
    momentum: float = 1.0
    lookahead: bool = False
    scales: int = 1
    diversity: float = 0.0
    smallest: float = 0.9
    kernel: int = 1
    kernel_deviations: float = 3.0
    neighbours: int = 0
    neighbour_radius: float = 1.5
    loss: LossName = "cross_entropy"
    targeted: bool = False

    def __post_init__(self) -> None:
        _ = self.ascent  # which refuses unsuitable steps, momentum and losses
        for name, count, least in (
            ("scales", self.scales, 1),
            ("kernel", self.kernel, 1),
            ("neighbours", self.neighbours, 0),
        ):
            if count != int(count) or count < least:
                raise UserError(f"{name} must be a whole number of at least {least}, got {count}; {least} is none")
        if self.kernel % 2 == 0:
            raise UserError(f"kernel must be odd, got {self.kernel}; take {self.kernel + 1}")
        if not 0 <= self.diversity <= 1:
            raise UserError(f"diversity must be a probability, got {self.diversity}; 0 is none, 0.5 is usual")
        if not 0 < self.smallest < 1:
            raise UserError(f"smallest must lie between 0 and 1, got {self.smallest}; 0.9 is usual")
        for name, value in (("kernel_deviations", self.kernel_deviations), ("neighbour_radius", self.neighbour_radius)):
            if not value > 0:
                raise UserError(f"{name} must be positive, got {value}; leave it out for the usual one")
        if self.lookahead and not self.momentum:
            raise UserError("lookahead follows the momentum, of which there is none; set momentum=1 or lookahead=false")

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        """Whether views or neighbours are drawn."""
        return bool(self.diversity or self.neighbours)

    def craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, source: RandomSource
    ) -> Tensor:
        """Return the last iterates (B, C, H, W), within the threat; views and neighbours are drawn from the source."""
        classes = (class_to_leave(network, images, labels), labels) if self.targeted else (labels, None)
        ascent = self.ascent
        epsilon = images.new_full((len(images),), threat.epsilon)
        ahead = self.momentum * ascent.step_length(epsilon) / threat.geometry.length(torch.ones_like(images))
        memory, variance = ascent.start(threat, images, epsilon, source), torch.zeros_like(images)
        for step in range(self.steps):
            iterate = memory["iterate"]
            point = iterate + per_image(ahead, images) * memory["velocity"] if self.lookahead else iterate
            logits, gradient = self._gradient(network, point, classes, source)
            if step == 0:
                check_logits(logits)
            direction = smoothed(gradient + variance if self.neighbours else gradient, self._window)
            result = Pass(images, epsilon, labels, labels, torch.full_like(labels, step), logits, direction)
            if self.neighbours:
                variance = self._neighbouring(network, point, classes, threat, source) - gradient
                variance = torch.nan_to_num(variance, nan=0.0, posinf=0.0, neginf=0.0)
            memory = ascent.step(threat, result, memory)
        return memory["iterate"]

    @functools.cached_property
    def _window(self) -> Tensor:
        return gaussian_window(self.kernel, self.kernel_deviations)

    def _neighbouring(
        self, network: nn.Module, point: Tensor, classes: Classes, threat: ThreatModel, source: RandomSource
    ) -> Tensor:
        """Mean gradient (B, C, H, W) at uniform draws from a ball around each point."""
        total = torch.zeros_like(point)
        for _ in range(self.neighbours):
            noise = threat.geometry.sample(point.shape, source, point.device)
            moved = point + self.neighbour_radius * threat.epsilon * noise
            total += self._gradient(network, moved, classes, source)[1]
        return total / self.neighbours

    def _gradient(
        self, network: nn.Module, point: Tensor, classes: Classes, source: RandomSource
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of the first view, and the gradient (B, C, H, W) averaged over scales."""
        scale = 1 / max(len(point), 1)  # as PGD, so that results agree to the last bit
        views = [self._view(point, exponent, source) for exponent in range(self.scales)]
        seen = [network if view is None else _Seen(network, view) for view in views]
        labels, targets = classes
        found = [loss_gradient(one, point, labels, self.loss, targets, scale=scale) for one in seen]
        return found[0][0], torch.stack([gradient for _, gradient in found]).mean(0)

    def _view(self, images: Tensor, exponent: int, source: RandomSource) -> View | None:
        """View of the images that the network sees; None for the images themselves."""
        place = None
        if self.diversity:
            draws = sample(torch.rand, (len(images), 4), source, images.device)
            place = placements(draws, images.shape[2:], self.diversity, self.smallest)
        if not exponent and place is None:
            return None

        def view(seen: Tensor) -> Tensor:
            scaled = seen / 2**exponent if exponent else seen
            return scaled if place is None else placed(scaled, *place)

        return view


class _Seen(nn.Module):
    """A network that sees a view of its images."""

    def __init__(self, network: nn.Module, view: View) -> None:
        super().__init__()
        self.network, self.view, self.training = network, view, getattr(network, "training", False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.view(images))
        return logits


def gaussian_window(side: int, deviations: float) -> Tensor:
    """Gaussian window (side, side) that sums to 1. Source: arXiv 1904.02884, sec. 3.3, and its released code.

    Examples:
        >>> gaussian_window(1, 3.0)
        tensor([[1.]])
    """
    line = torch.exp(-torch.linspace(-deviations, deviations, side, dtype=torch.float64).square() / 2)
    window = torch.outer(line, line)
    return (window / window.sum()).float()


def smoothed(gradient: Tensor, window: Tensor) -> Tensor:
    """Each channel of a gradient (B, C, H, W), convolved with a window and zero outside."""
    if window.numel() == 1:
        return gradient
    channels = gradient.shape[1]
    kernel = window.to(gradient).expand(channels, 1, *window.shape)
    return functional.conv2d(gradient, kernel, padding="same", groups=channels)


def placements(draws: Tensor, size: torch.Size, probability: float, smallest: float) -> tuple[Tensor, Tensor]:
    """Rows and columns of random smaller images: matrices (B, H, H) and (B, W, W) for `placed`.

    Args:
        draws: (B, 4) in [0, 1): whether, how large, and the place of the upper and the left edge.
        size: height and width.
        probability: of a smaller image; the others stay as they are.
        smallest: least side as a fraction.
    """
    height, width = size
    least = int(width * smallest)
    shown = draws[:, 0] < probability
    columns = torch.where(shown, least + (draws[:, 1] * (width - least)).long(), width)
    rows = columns * height // width
    top, left = ((draws[:, n] * (side - part)).long() for n, side, part in ((2, height, rows), (3, width, columns)))
    return _resampling(rows, top, height), _resampling(columns, left, width)


def _resampling(part: Tensor, offset: Tensor, side: int) -> Tensor:
    """Linear resampling of `side` pixels to `part` (B,) of them, placed at `offset` (B,); zero beside."""
    place = torch.arange(side, device=part.device) - offset[:, None]
    source = ((place + 0.5) * (side / part[:, None]) - 0.5).clamp(0, side - 1)
    weight = (1 - (source[:, :, None] - torch.arange(side, device=part.device)).abs()).clamp_min(0)
    inside = (place >= 0) & (place < part[:, None])
    return weight * inside[:, :, None]


def placed(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (B, C, H, W) resampled along both axes by matrices from `placements`."""
    return rows.to(images.dtype)[:, None] @ images @ columns.to(images.dtype).transpose(1, 2)[:, None]
