"""Successes noted on the device over several passes, so that the host asks for them once.

A GPU works behind the host, which only queues its work: each question about a result makes the host wait until the
queue is empty, and the GPU wait for the host afterwards. A *round* is several passes of the same slots without such a
question. Work of a slot after its first success in a round is wasted, and changes nothing that is found.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import TOLERANCE, ThreatModel

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Passes between two questions to the device. The results of a CPU are there when a pass ends, so that waiting would
# only waste passes.
_AT_ONCE: Final = {"cpu": 1}
_LATER: Final = 8


def default_wait(device: torch.device) -> int:
    """Passes between two results that the host reads."""
    return _AT_ONCE.get(device.type, _LATER)


def round_length(passes: int, wait: int) -> int:
    """Passes of a round, so that items of so many passes fill whole rounds with few to spare.

    Examples:
        >>> [round_length(passes, 8) for passes in (1, 7, 8, 10, 40, 100)]
        [1, 7, 8, 10, 8, 9]
    """
    return -(-passes // max(passes // wait, 1))


class Findings(NamedTuple):
    """Results of B slots in a round, as the host reads them.

    `row`, `item` and `passes` (B,) are the image, its item and the passes that it had left; `values` (3, B) float64 on
    the device are the pass of the first success (the round's length where there is none), the norm of the perturbation
    and by how much it leaves ball or bounds; `images` are successful iterates of the slots that are kept.
    """

    row: IntArray
    item: IntArray
    passes: IntArray
    values: Tensor
    images: dict[int, Tensor]


class Successes:
    """Successes of B slots during a round, on the device: the first of each, or the shortest in the threat.

    Args:
        threat: whose norm measures.
        images: (B, C, H, W), centres of the balls.
        epsilon: (B,), their radii.
        length: passes of the round.
        shortest: whether the shortest success inside the threat counts instead of the first.
    """

    def __init__(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, length: int, shortest: bool) -> None:
        self.threat, self.images, self.epsilon, self.length, self.shortest = threat, images, epsilon, length, shortest
        self.first = torch.full_like(epsilon, length, dtype=torch.int64)
        self.iterate = images.clone()
        self.distance = torch.full_like(epsilon, torch.inf, dtype=torch.float64)
        self.excess = torch.full_like(self.distance, -torch.inf)

    @property
    def open(self) -> Tensor:
        """Whether each slot, (B,), still looks for a success."""
        return torch.ones_like(self.first, dtype=torch.bool) if self.shortest else self.first == self.length

    def note(self, number: int, iterate: Tensor, hit: Tensor) -> None:
        """Iterates (B, C, H, W) of a pass, of which some (B,) are successes of slots that are open."""
        if self.shortest:
            everywhere = torch.full_like(self.epsilon, torch.inf)
            outside = self.threat.excess(iterate, self.images, everywhere)
            self.excess = torch.where(hit, torch.maximum(self.excess, outside), self.excess)
            distance = self.threat.distance(iterate, self.images)
            hit = hit & (distance <= self.threat.epsilon * (1 + TOLERANCE)) & (distance < self.distance)
            self.distance = torch.where(hit, distance, self.distance)
        self.first = torch.where(hit, number, self.first)
        self.iterate = torch.where(per_image(hit, iterate), iterate, self.iterate)

    def findings(self, row: IntArray, item: IntArray, passes: IntArray, kept: Sequence[int]) -> Findings:
        """Values that the host will read, with the iterates of some slots."""
        distance, excess = self.distance, self.excess
        if not self.shortest:
            distance = self.threat.distance(self.iterate, self.images)
            excess = self.threat.excess(self.iterate, self.images, self.epsilon)
        images = {slot: self.iterate[slot].clone(memory_format=torch.contiguous_format) for slot in kept}
        values = torch.stack([self.first.double(), distance, excess])
        return Findings(row.copy(), item.copy(), passes, values, images)
