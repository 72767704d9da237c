"""Objectives around another one."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import Objective
from symmetry_robustness.training.objectives.cross_entropy import CrossEntropy


@checked
@dataclass
class Wrapper:
    """Passes on to the objective within what a training tells it, and its state.

    Args:
        around: the objective within; not one that updates the weights in its own way, nor a module.

    Raises:
        UserError: the objective within is none, or one of these.
    """

    around: Objective = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        if not callable(self.around):
            raise UserError(
                f"{type(self).__name__} needs an objective within, got {self.around!r}; choose one for `around`"
            )
        if isinstance(self.around, nn.Module):  # whose state only a training module would move and save
            raise UserError(
                f"{type(self).__name__} cannot stand around {type(self.around).__name__}, which is a module; keep its "
                "state by state_dict() and load_state_dict() of a plain class"
            )
        if hasattr(self.around, "update"):
            raise UserError(
                f"{type(self).__name__} cannot stand around {type(self.around).__name__}, which updates the weights in "
                "its own way; choose another objective for `around`"
            )

    @property
    def defends(self) -> ThreatModel | None:
        """That of the objective within."""
        return getattr(self.around, "defends", None)

    def check_network(self, network: nn.Module) -> None:
        """Let the objective within check the network."""
        if check := getattr(self.around, "check_network", None):
            check(network)

    def set_epoch(self, epoch: int) -> None:
        """Tell the objective within the epoch."""
        if tell := getattr(self.around, "set_epoch", None):
            tell(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The state of the objective within, if it has one."""
        return {"around": self.around.state_dict()} if hasattr(self.around, "state_dict") else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        if hasattr(self.around, "load_state_dict"):
            self.around.load_state_dict(state["around"])
