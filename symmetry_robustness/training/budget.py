"""How much of a training's time evaluations may take, and which of them fit into that."""

import math
from typing import Any, Final, NamedTuple, final

import numpy as np

# By how much a larger or more frequent evaluation must fit to be chosen, so that noise does not swing the choice.
_MARGIN: Final = 1.25


class Plan(NamedTuple):
    """Evaluate `images` images, `interval` epochs after the last time; no images: not again."""

    images: int
    interval: int


@final
class Budget:
    """Chooses subset and frequency so that evaluations take at most a share of the time spent training.

    The first evaluation has the least number of images and tells what they cost; it counts like all others. The cost of
    a size that was evaluated follows what was measured; that of another is on a line through those known, in proportion
    to the only one known. Chosen are the most images that fit at the highest frequency; where not even the least number
    fits, the highest frequency at which it does. An evaluation starts only when everything so far and itself stay
    within the share, so an expensive one is made up for by waiting. Fewer than the least number are never chosen.

    Args:
        share: of the training time so far; None for no limit, always the most images at the highest frequency.
        every_n_epochs: the highest frequency.
        min_images: the least number; the sizes between it and the most double.
        num_images: the most.
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
        """Note that an epoch took this long to train."""
        self._trained += seconds
        self._epochs += 1

    def add_evaluation(self, images: int, seconds: float) -> None:
        """Note what an evaluation cost."""
        self._spent += seconds
        self._last = self._epochs
        self._costs[images] = (self._costs.get(images, seconds) + seconds) / 2

    def due(self) -> int:
        """Images to be evaluated after the epoch that has just ended, 0 for none."""
        images, interval = self.plan
        if self._epochs % self.every_n_epochs or self._epochs - self._last < interval:
            return 0
        return images if self._excess(images) <= 0 else 0

    def revise(self, remaining: float) -> bool:
        """Choose anew; tells whether the choice has changed.

        Args:
            remaining: epochs still to be trained, infinity where that is unknown.
        """
        before = self.plan
        if self.share is not None and self._costs and remaining:
            self.plan = self._choose(self.share * self._trained / self._epochs, remaining)
        return self.plan != before

    def describe(self) -> str:
        """The choice and its reason in one line."""
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
        """Seconds by which one more evaluation would exceed the budget; none as long as its cost is unknown."""
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
            if size <= 2 * max(self._costs)  # farther the estimate is not trusted
            and self.cost(size) * (_MARGIN if size > self.plan.images else 1) <= allowance
        ]
        images = max(fitting, default=affordable[0])
        if len(self._costs) == 1 and fitting and len(self.sizes) > 1 and self._excess(self.sizes[1]) <= 0:
            return Plan(self.sizes[1], self.plan.interval)  # savings pay for learning how the cost grows
        return Plan(images, self._interval(self.cost(images) / allowance))

    def _interval(self, needed: float) -> int:
        """Epochs from one evaluation to the next, for one that needs so many allowances."""
        longer, shorter = (self.every_n_epochs * max(1, math.ceil(factor * needed)) for factor in (1, _MARGIN))
        return max(longer, min(shorter, self.plan.interval))

    def state_dict(self) -> dict[str, Any]:
        """What was learned, as plain values."""
        return {
            "trained": self._trained,
            "spent": self._spent,
            "epochs": self._epochs,
            "last": self._last,
            "costs": [list(pair) for pair in self._costs.items()],
            "plan": list(self.plan),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self._trained, self._spent = state["trained"], state["spent"]
        self._epochs, self._last = state["epochs"], state["last"]
        self._costs = dict(state["costs"])
        plan = Plan(*state["plan"])
        if self.share is not None and plan.images in (0, *self.sizes):  # else the settings have changed
            self.plan = plan


def _every(interval: int) -> str:
    return "after every epoch" if interval == 1 else f"after every {interval} epochs"
