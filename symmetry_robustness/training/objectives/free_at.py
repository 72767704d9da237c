"""Free adversarial training: one backward pass for the weights and for the perturbation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.attacks.base import Pass
from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.ascent import Ascent
from symmetry_robustness.training.objectives.base import Passes, check_positive, read_epsilon


@final
@checked
@dataclass
class FreeTraining:
    """Cross-entropy of attacked images, each batch several times; each backward pass updates weights and perturbation.

    The perturbation begins at zero and is kept over replays and batches: that of the image at the same place of the
    batch before. It is projected into the ball around each new image and into [0, 1]. So with one replay it is FGSM's
    of the previous batch. It is a state of each rank, for its own part of a batch.

    Source: arXiv 1904.12843, alg. 1. Its authors divide the epochs by the replays.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; 0 is cross-entropy, replayed.
        replays: steps of the optimiser on each batch.
        relative_step_size: length of the perturbation's step as a fraction of epsilon.
    """

    epsilon: float | str = "8/255"
    replays: int = 8
    relative_step_size: float = 1.0
    _perturbation: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _attacked: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _images: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.epsilon = read_epsilon(self.epsilon)
        check_count("replays", self.replays)
        check_positive("relative_step_size", self.relative_step_size)

    @property
    def passes(self) -> Passes:
        """One of each for each replay."""
        return self.replays, self.replays

    @property
    def threat(self) -> ThreatModel:
        """Where attacked images lie."""
        return ThreatModel("linf", float(self.epsilon))

    @property
    def defends(self) -> ThreatModel | None:
        """The ball of epsilon."""
        return self.threat if self.epsilon else None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of images with the perturbation of the replay before."""
        attacked = images
        if self.epsilon:
            attacked = images.detach()
            if self._perturbation is not None:
                attacked = self.threat.project(attacked + _rows(self._perturbation, attacked), attacked)
            self._images, self._attacked = images, attacked.clone().requires_grad_()
            attacked = self._attacked
        logits = network(attacked)
        return F.cross_entropy(logits, labels), logits

    def update(self, network: nn.Module, step: Callable[[], object]) -> None:
        """Update the weights once for each replay, and the perturbation after each of them."""
        for _ in range(self.replays):
            step()
            self._move()

    @torch.no_grad()
    def _move(self) -> None:
        images, attacked = self._images, self._attacked
        self._images = self._attacked = None
        if images is None or attacked is None or attacked.grad is None:
            return
        nothing = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        radius = images.new_full((len(images),), float(self.epsilon))
        rule = Ascent(steps=1, length=self.relative_step_size * float(self.epsilon))
        result = Pass(images, radius, nothing, nothing, nothing, nothing[:, None], attacked.grad)
        moved = rule.step(self.threat, result, {"iterate": attacked.detach()})["iterate"] - images
        kept = self._perturbation
        # A batch that is cut off leaves the other rows as they are.
        self._perturbation = moved if kept is None else torch.cat([moved, kept[len(moved) :]])

    def state_dict(self) -> dict[str, Any]:
        """The perturbation, (B, C, H, W) for the largest batch so far."""
        return {"perturbation": self._perturbation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the perturbation."""
        self._perturbation = state["perturbation"]


def _rows(perturbation: Tensor, images: Tensor) -> Tensor:
    """The perturbation of as many images; zero where there were fewer so far."""
    missing = len(images) - len(perturbation)
    if missing <= 0:
        return perturbation[: len(images)]
    return torch.cat([perturbation, torch.zeros_like(images[:missing])])
