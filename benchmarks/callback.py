"""Time that the robustness callback adds to a training, against the budget it is given.

The same training with and without the callback, each in a process of its own; validation and the evaluation at
the end are left out on both sides.
"""

import statistics
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate

from benchmarks.alone import alone
from benchmarks.fit import prepare
from symmetry_robustness.training import RobustnessCallback

NETWORKS, EPOCHS = ("standard", "parallel_rotation"), 12
TIMES = 2


class Count(pl.Callback):
    """Images that a robustness callback evaluated in all."""

    def __init__(self, robustness: RobustnessCallback) -> None:
        self.images = 0.0
        self._robustness = robustness

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._robustness.evaluated_epoch == trainer.current_epoch:
            self.images += float(trainer.callback_metrics["robust/images"])


def fit(name: str, device: str, with_callback: bool) -> tuple[float, float, float]:
    """Seconds of all epochs; the share that the callback states; images it evaluated in all."""
    prepared = prepare(name, device, "data.train_size=6000")
    protocol = instantiate(prepared.config.robustness, _convert_="all")
    robustness = RobustnessCallback(protocol, **{**prepared.config.callback, "final_num_images": 1})
    count = Count(robustness)
    with TemporaryDirectory() as folder:
        seconds = prepared.run(EPOCHS, [robustness, count] if with_callback else [], folder)
    return seconds, robustness.budget.spent_share, count.images


def run(device: str = "cpu") -> list[dict[str, float | str]]:
    """A row per network, at the default budget of a tenth."""
    rows: list[dict[str, float | str]] = []
    for name in NETWORKS:
        found = {
            with_callback: [alone(fit, name, device, with_callback).result for _ in range(TIMES)]
            for with_callback in (False, True)
        }
        plain, watched = (statistics.median(seconds for seconds, _, _ in found[kind]) for kind in (False, True))
        _, share, images = found[True][0]
        rows.append(
            {
                "network": name,
                "epochs": str(EPOCHS),
                "without s": plain,
                "with s": watched,
                "share measured": watched / plain - 1,
                "share stated": share,
                "images in all": images,
            }
        )
    return rows
