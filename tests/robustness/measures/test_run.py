"""Every measure through the whole evaluation: windows, shards, ranks, files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import (
    CertifiedRadius,
    EquivarianceError,
    EvaluationProtocol,
    GradientNorm,
    Measure,
    MeasureInputs,
    MinimalDistance,
    Progress,
    RemovalTolerance,
    RobustnessReport,
    evaluate_in_shards,
    evaluate_robustness,
)
from symmetry_robustness.robustness import evaluate as evaluation

MEASURES: dict[str, Measure] = {
    "steepness": GradientNorm(norm="l1"),
    "removal": RemovalTolerance(levels=10, images=12),
    "distance": MinimalDistance(smallest=0.002, largest=0.02, radii=4, steps=5, images=9),
    "symmetry": EquivarianceError(angles=[45], scales=[0.5], layers=True, images=5),
}
PROTOCOL = EvaluationProtocol(
    attacks={"fgsm": FGSM()}, epsilons=[0.01], measures=MEASURES, batch_size=4, seed=3, checks="cheap"
)
SIZES = {"steepness": 30, "removal": 12, "distance": 9, "symmetry": 5}


def equal(first: RobustnessReport, second: RobustnessReport, tolerance: float = 0.0) -> None:
    assert first.measures.keys() == second.measures.keys()
    for name, arrays in first.measures.items():
        assert arrays.keys() == second.measures[name].keys()
        for array, values in arrays.items():
            other = second.measures[name][array]
            assert values.dtype == other.dtype
            np.testing.assert_allclose(
                values.astype(float), other.astype(float), atol=tolerance, rtol=tolerance, err_msg=f"{name} {array}"
            )


@pytest.fixture(scope="module")
def report(network: nn.Module, images: Tensor, labels: Tensor) -> RobustnessReport:
    return evaluate_robustness(network, images, labels, PROTOCOL)


def test_each_measure_is_taken_on_its_own_number_of_images(report: RobustnessReport) -> None:
    assert {name: len(arrays["indices"]) for name, arrays in report.measures.items()} == SIZES
    for name, arrays in report.measures.items():
        np.testing.assert_array_equal(arrays["indices"], range(SIZES[name]))
        assert {len(values) for array, values in arrays.items() if array != "removed"} == {SIZES[name]}
    assert len(report.measures["removal"]["removed"]) == PROTOCOL.keep_examples


def test_a_result_belongs_to_the_image_not_to_those_beside_it(
    network: nn.Module, images: Tensor, labels: Tensor, report: RobustnessReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(evaluation, "_WINDOW", 8)
    mixed = evaluate_robustness(network, images[order], labels[order], PROTOCOL, indices=order)
    equal(RobustnessReport.merge([mixed]), report, tolerance=1e-3)


def test_shards_give_what_one_evaluation_gives(
    network: nn.Module, images: Tensor, labels: Tensor, report: RobustnessReport, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    shared = evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=4, progress=seen.append)
    assert shared is not None
    equal(shared, report, tolerance=1e-3)
    assert shared.settings == report.settings
    assert len(list(tmp_path.glob("measures.removal-*.json"))) == 3
    stages = {state.stage for state in seen}
    assert stages == {"attacks", "checks", *(f"measures.{name}" for name in MEASURES)}
    for name, size in SIZES.items():
        done = [state.done for state in seen if state.stage == f"measures.{name}"]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, size)


def test_ranks_are_merged_to_the_lowest_numbers(
    network: nn.Module, images: Tensor, labels: Tensor, report: RobustnessReport
) -> None:
    parts = [
        evaluate_robustness(network, images[rank::3], labels[rank::3], PROTOCOL, indices=range(rank, 30, 3))
        for rank in range(3)
    ]
    equal(RobustnessReport.merge(parts), report, tolerance=1e-3)


def test_a_saved_report_comes_back(report: RobustnessReport, tmp_path: Path) -> None:
    loaded = RobustnessReport.load(report.save(tmp_path, "r"))
    equal(loaded, report)
    # NaN, where nothing applies, equals itself here.
    np.testing.assert_equal(loaded.summary(), report.summary())
    assert loaded.settings == report.settings
    assert loaded.settings["measures"]["symmetry"]["angles"] == [45]


def test_scalars_are_means_over_images_with_their_standard_error(report: RobustnessReport) -> None:
    removal = report.measures["removal"]["value"]
    found = report.measured("removal", "value")
    assert found.value == report.summary()["measures.removal.value"] == pytest.approx(removal.mean())
    assert found.standard_error == pytest.approx(removal.std(ddof=1) / np.sqrt(12))
    assert found.images == 12
    turns = report.measures["symmetry"]["turn.consistent"]
    assert report.measured("symmetry", "turn.consistent").value == pytest.approx(turns.mean())
    with pytest.raises(UserError, match="symmetry nothing was not measured; this report has steepness"):
        report.measured("symmetry", "nothing")


class Partial:
    """Values that do not apply to every image, or are broken on purpose."""

    images = None

    def __init__(self, values: npt.NDArray[np.float64]) -> None:
        self.values = values

    def compute(self, inputs: MeasureInputs) -> dict[str, npt.NDArray[np.float64]]:
        return {"value": self.values}


def test_what_does_not_apply_is_left_out_of_the_mean(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    nan = np.nan
    measure = Partial(np.array([[1.0, 3.0], [nan, 5.0], [nan, nan]]))
    found = evaluate_robustness(network, images[:3], labels[:3], EvaluationProtocol(measures={"own": measure}))
    assert found.measured("own", "value") == pytest.approx((3.5, 1.5, 2))
    short = EvaluationProtocol(measures={"own": Partial(np.zeros(2))})
    with pytest.raises(UserError, match="measure own: value has the shape"):
        evaluate_robustness(network, images[:3], labels[:3], short)


def test_nothing_is_measured_of_no_images(network: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path) -> None:
    none = evaluate_robustness(network, images[:0], labels[:0], PROTOCOL)
    assert none.measures == {}
    assert RobustnessReport.load(none.save(tmp_path, "none")).measures == {}


def test_the_state_of_the_network_and_of_chance_is_left_alone(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    before = {name: values.clone() for name, values in network.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    evaluate_robustness(network, images, labels, PROTOCOL)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    assert all(not module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measures": {"a b": GradientNorm()}}, "cannot name a measure"),
        ({"measures": {"a": FGSM()}}, "measure a must be a measure"),
        ({"measures": {"a": GradientNorm(images=0)}}, "measures.a.images must be at least 1"),
        ({"measures": {"a": GradientNorm()}, "mode": "training_statistics"}, "measures need mode=evaluation"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluationProtocol(**settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Own:
    """A measure that returns what it is told to."""

    found: Callable[[Tensor], object]
    images: int | None = None

    def compute(self, inputs: MeasureInputs) -> Any:
        return self.found(inputs.labels)


def own(network: nn.Module, images: Tensor, labels: Tensor, found: Callable[[Tensor], object]) -> RobustnessReport:
    protocol = EvaluationProtocol(measures={"own": Own(found)}, checks="cheap")
    return evaluate_robustness(network, images, labels, protocol)


def test_tensors_become_arrays(network: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path) -> None:
    report = own(network, images, labels, lambda labels: {"value": labels.float().requires_grad_()})
    np.testing.assert_array_equal(report.measures["own"]["value"], labels.numpy())
    report.save(tmp_path, "own")
    np.testing.assert_array_equal(RobustnessReport.load(tmp_path / "own.json").measures["own"]["value"], labels.numpy())


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (lambda labels: labels.numpy(), "returned ndarray"),
        (lambda labels: {"value": ["a"] * len(labels)}, "real numbers"),
        (lambda labels: {"value": labels[:3]}, "first axis must be 30"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(
    found: Callable[[Tensor], object], named: str, network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(UserError, match=f"measure own.*{named}"):
        own(network, images, labels, found)


def test_names_are_kept_in_arrays_without_a_mean(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    protocol = EvaluationProtocol(measures={"certified": CertifiedRadius(method="interval", images=3)}, checks="cheap")
    report = evaluate_robustness(network, images, labels, protocol)
    assert report.measures["certified"]["method"].tolist() == ["interval"] * 3


def test_a_missing_member_is_named() -> None:
    class NoImages:
        def compute(self, inputs: MeasureInputs) -> dict[str, object]:
            return {}

    class NoCompute:
        images = None

    for measure, member in ((NoImages(), "images"), (NoCompute(), "compute")):
        with pytest.raises(UserError, match=f"measure own: {type(measure).__name__} has no {member}; add the"):
            EvaluationProtocol(measures={"own": measure})  # type: ignore[dict-item]


@pytest.mark.parametrize(("value", "status"), [(1.0, "passed"), (float("nan"), "warned")])
def test_a_mean_of_nothing_is_noticed(
    value: float, status: str, network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    report = own(network, images, labels, lambda labels: {"value": torch.full((len(labels),), value)})
    (check,) = (check for check in report.checks if check.name == "measures_defined")
    assert check.status == status
    assert ("own.value" in check.evidence) is (status == "warned")
