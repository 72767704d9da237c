"""LAST, a reconstruction: the weights follow the response of their previous state to an attack."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import (
    AdversarialObjective,
    Objective,
    Passes,
    add_passes,
    check_positive,
    divergence,
)
from symmetry_robustness.training.objectives.fgsm_rs import FGSMRandomStart
from symmetry_robustness.training.objectives.weights import replaced
from symmetry_robustness.training.objectives.wrapper import Wrapper


@final
@checked
@dataclass
class LearnFromPast(Wrapper):
    """Weights theta move by gamma towards where a step of the optimiser takes the weights w of the batch before.

    Images are attacked at theta. The loss is that of w, (1 - mu) CE(x') + mu KL(p(x') || p(x)), with predictions at a
    temperature; the optimiser's step takes w to w~, and theta becomes (1 - gamma) theta + gamma w~. Then w is the theta
    before. Momentum, weight decay and schedule are the optimiser's, on w. There is one set of running statistics, which
    learns from the passes of w.

    A reconstruction of arXiv 2310.12713 (LAST) from its abstract and its reviews: gamma, mu, the temperature and the
    direction of the divergence are not known, and gradients through both predictions are ours.

    Args:
        around: the objective whose attack is used.
        gamma: share of the step that theta takes; 0 leaves it, 1 replaces it.
        mu: share of the divergence in the loss.
        temperature: divides the logits in the divergence.
    """

    around: Objective = field(default_factory=FGSMRandomStart)
    gamma: float = 0.5
    mu: float = 0.5
    temperature: float = 1.0
    _past: list[Tensor] | None = field(default=None, init=False, repr=False, compare=False)
    _present: dict[nn.Parameter, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.around, AdversarialObjective):
            raise UserError(
                f"LearnFromPast needs an objective with an attack of its own, got {type(self.around).__name__}; "
                "choose fgsm_rs, n_fgsm, pgd_at, trades or mart for `around`"
            )
        for name, share in (("gamma", self.gamma), ("mu", self.mu)):
            if not 0 <= share <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {share}; 0.5 is the default")
        check_positive("temperature", self.temperature)

    @property
    def passes(self) -> Passes:
        """The attack, and attacked and clean images."""
        assert isinstance(self.around, AdversarialObjective)
        return add_passes(self.around.attack_passes, (2, 2) if self.mu else (1, 1))

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images; of the attacked ones where mu is 0."""
        assert isinstance(self.around, AdversarialObjective)
        with replaced(network, self._present):
            attacked = self.around.attacked(network, images, labels)
        moved = network(attacked)
        loss = F.cross_entropy(moved, labels)
        if not self.mu:
            return loss, moved
        logits = network(images)
        distance = divergence(moved / self.temperature, logits / self.temperature).mean()
        return (1 - self.mu) * loss + self.mu * distance, logits

    @torch.no_grad()
    def update(self, network: nn.Module, step: Callable[[], object]) -> None:
        """Step from the weights of the batch before, and move those of this one towards the result."""
        parameters = list(network.parameters())
        present = [parameter.detach().clone() for parameter in parameters]
        if self._past is not None:
            for parameter, past in zip(parameters, self._past, strict=True):
                parameter.copy_(past)
        # As parameters, so that layers may keep filters that they expand from them.
        self._present = {
            p: nn.Parameter(value, requires_grad=False) for p, value in zip(parameters, present, strict=True)
        }
        with torch.enable_grad():
            step()
        self._present = {}
        for parameter, value in zip(parameters, present, strict=True):
            parameter.copy_(torch.lerp(value, parameter, self.gamma))
        self._past = present

    def state_dict(self) -> dict[str, Any]:
        """Weights of the batch before, in the network's order; None before the first one."""
        return super().state_dict() | {"past": self._past}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        self._past = state["past"]
