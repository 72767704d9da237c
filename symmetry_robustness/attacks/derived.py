"""Update rules that are another rule with one part exchanged."""

from typing import Any, Final

from torch import Tensor, nn

from symmetry_robustness.attacks.base import Memory, Pass, UpdateRule, as_attack
from symmetry_robustness.attacks.threat import ThreatModel
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource

# Statements that a derived rule takes over from the rule that it is made of.
_SHARED: Final = (
    "steps", "restarts", "random_start", "targeted", "iterate", "loss", "norms", "draws", "minimizes_norm",
)  # fmt: skip


class DerivedRule(UpdateRule):
    """A rule that starts and steps as another one, `attack`; a subclass exchanges one part."""

    attack: UpdateRule

    def __post_init__(self) -> None:
        rule = as_attack(self.attack).update_rule
        if rule is None or not rule.uses_gradient or rule.gradient_every != 1:
            raise UserError(f"attack must follow a gradient in each step, got {self.attack!r}; give PGD or FGSM")
        for name in _SHARED:
            object.__setattr__(self, name, getattr(rule, name))

    @property
    def passes_per_step(self) -> int:
        """Those of the attack."""
        return self.attack.passes_per_step

    def reach(self, epsilon: float) -> float | None:
        """That of the attack."""
        return self.attack.reach(epsilon)

    def describe(self) -> dict[str, Any]:
        """Class, the attack with its settings, and its steps, which tables name."""
        return {"class": type(self).__name__, "attack": self.attack.describe(), "steps": self.steps}

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """As the attack starts."""
        return self.attack.start(threat, images, epsilon, source)

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """As the attack steps."""
        return self.attack.step(threat, result, memory)

    def evaluate(
        self, network: nn.Module, iterate: Tensor, labels: Tensor, targets: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As the attack evaluates."""
        return self.attack.evaluate(network, iterate, labels, targets, scale)
