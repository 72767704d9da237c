"""Budget of the evaluations during a training: subset and frequency that fit into a share of its time."""

import math
from typing import Any, Final, NamedTuple, final

import numpy as np

# By how much a larger or more frequent evaluation must fit to be chosen, so that noise does not swing the choice.
_MARGIN: Final = 1.25


class Plan(NamedTuple):
    """Evaluate `images` images, `interval` epochs after the last evaluation; 0 images: never again."""

    images: int
    interval: int


@final
class Budget:
    """Chooses subset and frequency so that evaluations take at most a share of the time spent training.

    The first evaluation has the smallest size and measures its cost; it counts like all others. The cost of a size that
    was evaluated is measured; that of another lies on a line through the known ones, or is proportional to the only
    one. The choice is the largest size that fits at the highest frequency, else the highest frequency at which the
    smallest size fits. An evaluation starts only if all so far and itself stay within the share, so waiting makes up
    for an expensive one. Sizes below the smallest are never chosen.

    Args:
        share: of the training time so far; None for no limit: always the largest size at the highest frequency.
        every_n_epochs: the highest frequency.
        min_images: the smallest size; sizes double from it.
        num_images: the largest size.
    """

    def __init__(self, share: float | None, every_n_epochs: int, min_images: int, num_images: int) -> None:
        self.share = share
        self.every_n_epochs = every_n_epochs
        doublings = math.ceil(math.log2(num_images / min_images))
        self.sizes = (*(min_images << power for power in range(doublings)), num_images)
        self.plan = Plan(num_images if share is None else min_images, every_n_epochs)
        self._trained = self._spent = 0.0
        self._epochs = self._last = 0
        self._costs: dict[int, float] = {}

    @property
    def spent_share(self) -> float:
        """Seconds of evaluations so far over seconds of training."""
        return self._spent / self._trained if self._trained else 0.0

    def add_epoch(self, seconds: float) -> None:
        """Record the training time of an epoch."""
        self._trained += seconds
        self._epochs += 1

    def add_evaluation(self, images: int, seconds: float) -> None:
        """Record the cost of an evaluation."""
        self._spent += seconds
        self._last = self._epochs
        self._costs[images] = (self._costs.get(images, seconds) + seconds) / 2

    def due(self) -> int:
        """Images to evaluate after the epoch that has just ended, 0 for none."""
        images, interval = self.plan
        if self._epochs % self.every_n_epochs or self._epochs - self._last < interval:
            return 0
        return images if self._excess(images) <= 0 else 0

    def revise(self, remaining: float) -> bool:
        """Update the plan; returns whether it has changed.

        Args:
            remaining: epochs still to train, infinity if unknown.
        """
        before = self.plan
        if self.share is not None and self._costs and remaining:
            self.plan = self._choose(self.share * self._trained / self._epochs, remaining)
        return self.plan != before

    def describe(self) -> str:
        """The plan and its reason in one line."""
        if self.share is None or not self._costs:
            return f"{self.plan.images} images {_every(self.plan.interval)}"
        least, most, (images, interval) = self.sizes[0], self.sizes[-1], self.plan
        reason = (
            f"{self.cost(images or least):.3g} s each, {self._trained / self._epochs:.3g} s of training per epoch; "
            f"{self.spent_share:.1%} spent of callback.max_share_of_epoch={self.share:g}"
        )
        if not images:
            return (
                f"no further evaluation, {least} images (callback.min_images) do not fit into what is left: {reason}; "
                "choose fewer images, a larger share, or null for no limit"
            )
        wait = math.ceil(self._excess(images) / (self.share * self._trained / self._epochs))
        pause = f", after a pause of about {wait} epochs" if wait > interval else ""
        return f"{images} images (of {least} to {most}) {_every(interval)}{pause}: {reason}"

    def cost(self, images: int) -> float:
        """Estimated seconds of an evaluation."""
        if images in self._costs:
            return self._costs[images]
        sizes, seconds = (np.array(column, dtype=float) for column in (list(self._costs), list(self._costs.values())))
        if len(sizes) > 1:
            rate, fixed = np.polyfit(sizes, seconds, 1)
            if rate >= 0 and fixed >= 0:
                return float(fixed + rate * images)
        return float(images * seconds.sum() / sizes.sum())

    def _excess(self, images: int) -> float:
        """Seconds by which one more evaluation would exceed the budget; 0 while its cost is unknown."""
        if self.share is None or not self._costs:
            return 0.0
        return self._spent + self.cost(images) - self.share * self._trained

    def _choose(self, per_epoch: float, remaining: float) -> Plan:
        """The plan for an allowance of seconds per epoch."""
        allowance = per_epoch * self.every_n_epochs
        affordable = [size for size in self.sizes if self._excess(size) <= per_epoch * remaining]
        if not affordable:
            return Plan(0, self.plan.interval)
        fitting = [
            size
            for size in affordable
            if size <= 2 * max(self._costs)  # the estimate does not reach farther
            and self.cost(size) * (_MARGIN if size > self.plan.images else 1) <= allowance
        ]
        images = max(fitting, default=affordable[0])
        if len(self._costs) == 1 and fitting and len(self.sizes) > 1 and self._excess(self.sizes[1]) <= 0:
            return Plan(self.sizes[1], self.plan.interval)  # savings pay for a second point of the cost line
        return Plan(images, self._interval(self.cost(images) / allowance))

    def _interval(self, needed: float) -> int:
        """Epochs between two evaluations that each need so many allowances."""
        longer, shorter = (self.every_n_epochs * max(1, math.ceil(factor * needed)) for factor in (1, _MARGIN))
        return max(longer, min(shorter, self.plan.interval))

    def state_dict(self) -> dict[str, Any]:
        """Costs and plan, as plain values."""
        return {
            "trained": self._trained,
            "spent": self._spent,
            "epochs": self._epochs,
            "last": self._last,
            "costs": [list(pair) for pair in self._costs.items()],
            "plan": list(self.plan),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self._trained, self._spent = state["trained"], state["spent"]
        self._epochs, self._last = state["epochs"], state["last"]
        self._costs = dict(state["costs"])
        plan = Plan(*state["plan"])
        if self.share is not None and plan.images in (0, *self.sizes):  # else the settings have changed
            self.plan = plan


def _every(interval: int) -> str:
    return "after every epoch" if interval == 1 else f"after every {interval} epochs"
