"""A measure with a headline is named in logs and summaries like CLEVER, whoever wrote it."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, MeasureInputs, RobustnessReport, evaluate_robustness
from symmetry_robustness.training.callback import RobustnessCallback
from symmetry_robustness.training.report_logging import describe


@dataclasses.dataclass(frozen=True)
class Brightness:
    """Mean pixel value of each image, which bounds nothing."""

    images: int | None = None
    title: ClassVar = "BRIGHT"
    headline: ClassVar = "value"

    def compute(self, inputs: MeasureInputs) -> dict[str, np.ndarray]:
        values = inputs.images.flatten(1).mean(1).cpu().numpy()
        return {"value": values, "twice": 2 * values}


def evaluate(name: str) -> RobustnessReport:
    protocol = EvaluationProtocol(measures={name: Brightness()})
    images = torch.full((4, 3, 2, 2), 0.25)
    return evaluate_robustness(nn.Sequential(nn.Flatten()).eval(), images, torch.arange(4), protocol)


def test_the_headline_has_the_name_of_the_measure() -> None:
    report = evaluate("light")
    assert report.summary()["light"] == 0.25
    assert report.summary()["measures.light.twice"] == 0.5
    assert "measures.light.value" not in report.summary()
    assert report.headlines == {"light": "BRIGHT"}
    assert "BRIGHT 0.250" in describe(report)


def test_a_checkpoint_may_be_chosen_by_it() -> None:
    callback = RobustnessCallback(EvaluationProtocol(measures={"light": Brightness()}))
    assert "robust/light" in callback.metric_names


@pytest.mark.parametrize("name", ["clean", "images", "share_of_epoch", "seed"])
def test_the_name_of_another_number_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="another number"):
        EvaluationProtocol(measures={name: Brightness()})
