"""The budget alone, against evaluations whose cost is known."""

import json
import random
from collections.abc import Callable
from math import inf

import pytest

from symmetry_robustness.training.budget import Budget

Cost = Callable[[int], float]
EPOCH = 100.0  # seconds of training; a budget of a tenth allows 10 s of evaluation per epoch


def affine(fixed: float, per_image: float) -> Cost:
    return lambda images: fixed + per_image * images


def run(
    budget: Budget, cost: Cost, epochs: int = 40, start: int = 0, stop: int | None = None
) -> tuple[list[int], list[float]]:
    """Images evaluated after each epoch of a part of the training, and the share spent by then."""
    chosen, shares = [], []
    for epoch in range(start, epochs if stop is None else stop):
        budget.add_epoch(EPOCH)
        budget.revise(epochs - epoch - 1)
        images = budget.due()
        if images:
            budget.add_evaluation(images, cost(images))
            budget.revise(epochs - epoch - 1)
        chosen.append(images)
        shares.append(budget.spent_share)
    return chosen, shares


def make(**settings: float | None) -> Budget:
    values = {"share": 0.1, "every_n_epochs": 1, "min_images": 64, "num_images": 512, **settings}
    return Budget(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cost", "images", "interval"),
    [
        (affine(0, 0.001), 512, 1),
        (affine(0, 0.015), 512, 1),
        (affine(0, 0.03), 256, 1),
        (affine(0, 0.06), 128, 1),
        (affine(5, 0.03), 128, 1),
        (affine(0, 0.15), 64, 1),
        (affine(0, 0.3), 64, 2),
        (affine(20, 0.3), 64, 4),
    ],
)
def test_a_slower_evaluation_gets_fewer_images_and_then_fewer_epochs(cost: Cost, images: int, interval: int) -> None:
    budget = make()
    chosen, shares = run(budget, cost)
    assert chosen[0] == 64
    assert budget.plan == (images, interval)
    assert chosen[-2 * interval :].count(images) == 2
    assert min(filter(None, chosen)) == 64
    assert shares[-1] <= 0.1


@pytest.mark.parametrize("seed", range(20))
def test_once_the_first_evaluation_is_made_up_for_the_share_stays_below_the_budget(seed: int) -> None:
    draw = random.Random(seed)
    budget = make(every_n_epochs=draw.choice([1, 2, 5]), min_images=draw.choice([1, 20, 64]))
    chosen, shares = run(budget, affine(draw.uniform(0, 40), draw.choice([0, 0.01, 0.1, 0.5])), epochs=200)
    settled = next(epoch for epoch, share in enumerate(shares) if 0 < share <= 0.1)
    assert max(shares[settled:]) <= 0.1
    assert all(images >= budget.sizes[0] for images in chosen if images)
    evaluated = [epoch + 1 for epoch, images in enumerate(chosen) if images]
    assert all(epoch % budget.every_n_epochs == 0 for epoch in evaluated)
    assert len(evaluated) > 1


def test_an_expensive_first_evaluation_is_followed_by_a_pause() -> None:
    budget = make()
    chosen, shares = run(budget, lambda images: 40)
    assert shares[0] == 0.4
    assert chosen.index(64, 1) == 7  # the eighth epoch is the first at which two of them are a tenth
    assert shares[-1] <= 0.1


def test_what_cannot_fit_is_said_instead_of_evaluating_less() -> None:
    budget = make()
    chosen, _ = run(budget, affine(500, 0))
    assert chosen == [64, *[0] * 39]
    assert budget.plan.images == 0
    line = budget.describe()
    assert "no further evaluation" in line
    assert "64 images (callback.min_images)" in line
    assert "\n" not in line


def test_the_line_says_what_was_chosen_and_why() -> None:
    budget = make()
    budget.add_epoch(EPOCH)
    assert not budget.revise(inf)
    budget.add_evaluation(64, 40.0)
    assert budget.revise(inf)
    line = budget.describe()
    assert line == (
        "64 images (of 64 to 512) after every 4 epochs, after a pause of about 7 epochs: 40 s each, 100 s of training "
        "per epoch; 40.0% spent of callback.max_share_of_epoch=0.1"
    )


def test_without_a_limit_everything_is_evaluated() -> None:
    budget = make(share=None, every_n_epochs=3)
    chosen, shares = run(budget, affine(1000, 1), epochs=9)
    assert chosen == [0, 0, 512] * 3
    assert shares[-1] == pytest.approx(3 * 1512 / 900)
    assert not budget.revise(inf)


def test_the_cost_of_other_sizes_is_on_a_line_through_those_seen() -> None:
    budget = make()
    budget.add_evaluation(64, 35.0)
    assert budget.cost(128) == 70.0
    budget.add_evaluation(128, 67.0)
    assert budget.cost(512) == pytest.approx(3 + 0.5 * 512)


def test_a_cost_that_grows_is_followed() -> None:
    budget = make()
    chosen, shares = run(budget, lambda images: images * (0.01 if budget.spent_share < 0.04 else 0.1), epochs=100)
    assert max(chosen) == 512
    assert max(chosen[-10:]) == 64
    assert shares[-1] <= 0.1


def test_savings_pay_for_learning_how_cost_grows() -> None:
    budget = make()
    chosen, _ = run(budget, affine(5, 0.005))  # in proportion, 128 images would take 10.6 s instead of 5.6 s
    assert chosen[-1] == 512


def test_noise_does_not_swing_the_choice() -> None:
    draw, budget, plans = random.Random(0), make(), []
    run(budget, affine(0, 0.026), epochs=10)
    for _ in range(100):
        budget.add_epoch(EPOCH * draw.uniform(0.9, 1.1))
        budget.revise(inf)
        plans.append(budget.plan)
        if images := budget.due():
            budget.add_evaluation(images, 0.026 * images * draw.uniform(0.9, 1.1))
    assert len(set(plans)) == 1


@pytest.mark.parametrize("stop", [1, 2, 5, 13])
@pytest.mark.parametrize("cost", [affine(1, 0.05), affine(30, 0.1)])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(stop: int, cost: Cost) -> None:
    expected = run(make(), cost)
    interrupted, resumed = make(), make()
    first = run(interrupted, cost, stop=stop)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    rest = run(resumed, cost, start=stop)
    assert (first[0] + rest[0], first[1] + rest[1]) == expected
