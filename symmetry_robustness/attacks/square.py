"""Square: a random search that changes one square of the image at a time and asks for logits only."""

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from symmetry_robustness.attacks.base import Memory, Pass, UpdateRule, attack_loss
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import ThreatModel
from symmetry_robustness.attacks.validation import check_count, check_norm
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource, draw_key, hashed_uniform, sample
from symmetry_robustness.settings import checked

# Queries after which the area of the squares is halved (reference implementation, for any number of queries).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12


@final
@checked
@dataclass(frozen=True)
class Square(UpdateRule):
    """Random search over squares that keeps what raises the margin loss. Source: arXiv 1912.00049, alg. 1 to 3.

    Works in linf and l2. Random numbers are a function of the image's generator and the number of the query.

    Args:
        steps: queries after the first.
        restarts: independent runs.
        share: of the image that the first squares cover (p of the paper).

    Examples:
        >>> from torch import nn
        >>> images, labels = torch.full((1, 3, 4, 4), 0.5), torch.tensor([0])
        >>> network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten()).eval()  # the class is the brightest channel
        >>> attacked = Square(steps=50)(network, images, labels, ThreatModel("linf", "51/255"))
        >>> attacked.mean((2, 3))[0, 0] < 0.5
        tensor(True)
    """

    steps: int = 5000
    restarts: int = 1
    share: float = 0.8

    norms = ("linf", "l2")
    random_start = True
    uses_gradient = False
    looks_ahead = True
    iterate = "best"
    loss = "margin"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            check_count(name, getattr(self, name))
        if not 0 < self.share <= 1:
            raise UserError(f"share must lie in (0, 1], got {self.share}; 0.8 is usual")

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """Begin with vertical stripes (linf), or with one bump in each of 5 × 5 tiles (l2)."""
        check_norm("Square", threat.norm, self.norms)
        if threat.norm == "linf":
            stripes = sample(torch.rand, (*images.shape[:2], 1, images.shape[3]), source, images.device)
            iterate = images + per_image(epsilon, images) * _signs(stripes)
        else:
            iterate = images + per_image(epsilon, images) * _unit(_tiles(images, source))
        key = sample(draw_key, (len(images),), source, images.device)
        iterate = threat.project(iterate, images, epsilon)
        nothing = torch.full_like(epsilon, -torch.inf)
        return {"iterate": iterate, "best": iterate, "best_loss": nothing, "key": key}

    def keeps(self, logits: Tensor, labels: Tensor, memory: Memory) -> Tensor:
        """Whether candidates (B,) are better than the best so far."""
        return self._loss(logits, labels) > memory["best_loss"]

    def next_iterate(
        self, threat: ThreatModel, images: Tensor, epsilon: Tensor, step: Tensor, memory: Memory
    ) -> Tensor:
        """The best with one square changed."""
        best = memory["best"]
        propose = _repainted if threat.norm == "linf" else _moved
        numbers = hashed_uniform(memory["key"], step, best.shape[1] + 5)
        sides = torch.tensor(_sides(self, threat.norm, tuple(best.shape[2:])), device=best.device)
        moved = propose(images, best, epsilon, sides[_halvings(step)], numbers)
        return threat.project(moved, images, epsilon)

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """Keep the candidate if it is better than the best so far, and change one square of the best."""
        better = self.keeps(result.logits, result.labels, memory) | (result.step == 0)
        changed = {
            "best": torch.where(per_image(better, memory["best"]), memory["iterate"], memory["best"]),
            "best_loss": torch.where(better, self._loss(result.logits, result.labels), memory["best_loss"]),
            "key": memory["key"],
        }
        iterate = self.next_iterate(threat, result.images, result.epsilon, result.step, changed)
        return changed | {"iterate": iterate}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return attack_loss(self.loss, logits, labels).nan_to_num(nan=-torch.inf)


def _halvings(step: Tensor) -> Tensor:
    """How often the area has been halved before each query, (B,)."""
    return torch.bucketize(step, torch.tensor(_HALVINGS, device=step.device))


@lru_cache(maxsize=64)
def _sides(rule: Square, norm: str, size: tuple[int, int]) -> list[int]:
    """Side of a square after each number of halvings; odd and at least 3 in l2, where squares have two halves."""
    sides = []
    for halvings in range(len(_HALVINGS) + 1):
        side = round((rule.share * 0.5**halvings * size[0] * size[1]) ** 0.5)
        if norm == "l2":
            side, largest = max(side, 3), min(size) - (min(size) + 1) % 2
            sides.append(min(side + (side + 1) % 2, largest))
        else:
            sides.append(min(max(side, 1), *size))
    return sides


def _signs(uniform: Tensor) -> Tensor:
    """Fair signs, one for each uniform number."""
    return 1.0 - 2.0 * (uniform < 0.5)


def _unit(perturbation: Tensor) -> Tensor:
    """Perturbations divided by their Euclidean length."""
    length: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
    return perturbation / per_image(length + _TINY, perturbation)


def _channel_length(perturbation: Tensor) -> Tensor:
    """Euclidean length of each channel, (B, C, 1, 1)."""
    length: Tensor = torch.linalg.vector_norm(perturbation, dim=(2, 3), keepdim=True)
    return length


def _windows(numbers: Tensor, side: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows (B, H) and columns (B, W), counted from the corner of a square that two uniform numbers (B, 2) place."""
    counted = []
    for axis, extent in enumerate(size):
        corner = (numbers[:, axis] * (extent - side + 1)).floor()
        counted.append(torch.arange(extent, device=side.device) - corner.long()[:, None])
    return counted[0], counted[1]


def _inside(rows: Tensor, columns: Tensor, side: Tensor) -> Tensor:
    """Mask (B, 1, H, W) of the square."""
    within = [(counted >= 0) & (counted < side[:, None]) for counted in (rows, columns)]
    return (within[0][:, :, None] & within[1][:, None, :])[:, None]


def _repainted(images: Tensor, best: Tensor, epsilon: Tensor, side: Tensor, numbers: Tensor) -> Tensor:
    """Candidates (B, C, H, W) in linf: one square takes a random corner of the ball, for each channel one."""
    size = images.shape[2], images.shape[3]
    rows, columns = _windows(numbers, side, size)
    painted = images + per_image(epsilon, images) * _signs(numbers[:, 5:])[:, :, None, None]
    return torch.where(_inside(rows, columns, side), painted, best)


def _moved(images: Tensor, best: Tensor, epsilon: Tensor, side: Tensor, numbers: Tensor) -> Tensor:
    """Candidates (B, C, H, W) in l2: one square gets a bump, and the length that another one loses."""
    size = images.shape[2], images.shape[3]
    rows, columns = _windows(numbers, side, size)
    gaining = _inside(rows, columns, side)
    losing = _inside(*_windows(numbers[:, 2:], side, size), side)
    change = best - images
    unused = (epsilon.square() - change.square().flatten(1).sum(1)).clamp_min(0) / images.shape[1]
    available = (_channel_length(change * (gaining | losing)).square() + per_image(unused, images)).sqrt()
    turned = numbers[:, 4, None, None] < 0.5
    bump = torch.where(turned, _bumps(rows, columns, side), _bumps(columns, rows, side).transpose(1, 2))
    kept = change * gaining
    fresh = bump[:, None] * _signs(numbers[:, 5:])[:, :, None, None] * gaining + kept / (_channel_length(kept) + _TINY)
    fresh = fresh / (_channel_length(fresh) + _TINY) * available
    change = torch.where(gaining, fresh, torch.where(losing, 0.0, change))
    return images + per_image(epsilon, images) * _unit(change)


def _tiles(images: Tensor, source: RandomSource) -> Tensor:
    """Bumps (B, C, H, W) of random sign and orientation in tiles of a fifth of the side."""
    batch, channels, height, width = images.shape
    side = max(min(height, width) // 5, 1)
    edges = [max((extent - 5 * side) // 2, 0) for extent in (height, width)]
    counts = [(extent - edge) // side for extent, edge in zip((height, width), edges, strict=True)]
    numbers = sample(torch.rand, (batch, *counts, channels + 1), source, images.device)
    bump = _bump(side).to(images.device)
    turned = torch.where(numbers[..., :1, None] < 0.5, bump, bump.T)
    tiles = turned[:, :, :, None] * _signs(numbers[..., 1:, None, None])
    tiles = tiles.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, counts[0] * side, counts[1] * side)
    change = torch.zeros_like(images)
    change[:, :, edges[0] : edges[0] + tiles.shape[2], edges[1] : edges[1] + tiles.shape[3]] = tiles
    return change


@lru_cache(maxsize=64)
def _bump(side: int) -> Tensor:
    """A square (side, side) of length one: a hill in the upper half, a hollow in the lower. Source: eq. 2 and 3."""
    if side == 1:
        return torch.ones(1, 1)
    halves = [_hill(side // 2, side), -_hill(side - side // 2, side)]
    return torch.cat(halves) / 2**0.5


def _hill(height: int, width: int) -> Tensor:
    """A rectangle of length one that falls from its middle in square rings, as sums of 1 / r²."""
    vertical, horizontal = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    ring = torch.maximum(vertical.abs()[:, None], horizontal.abs())
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2) ** 2
    hill: Tensor = terms.flip(0).cumsum(0).flip(0)[ring]
    return hill / float(hill.norm())


def _bumps(rows: Tensor, columns: Tensor, side: Tensor) -> Tensor:
    """The bump (B, H, W) of each image's square, whose rows (B, H) and columns (B, W) are counted from its corner."""
    sides, kind = torch.unique(side, return_inverse=True)
    table = torch.zeros((len(sides), int(sides.max()), int(sides.max())), device=side.device)
    for number, length in enumerate(sides.tolist()):
        table[number, :length, :length] = _bump(length)
    last = table.shape[1] - 1
    return table[kind[:, None, None], rows.clamp(0, last)[:, :, None], columns.clamp(0, last)[:, None, :]]
