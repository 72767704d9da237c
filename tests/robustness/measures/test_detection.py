"""Laws of detectors: closed forms of scores, thresholds that hold, attacks that know them, and a planted mistake."""

import gc
import math
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional import auroc, roc

from symmetry_robustness.attacks import FGSM, PGD
from symmetry_robustness.errors import UserError
from symmetry_robustness.results import RobustnessReport
from symmetry_robustness.results.detection import statistic
from symmetry_robustness.robustness import (
    Detection,
    Detector,
    EvaluationProtocol,
    LayerInconsistency,
    MeasureInputs,
    OrbitInconsistency,
    evaluate_in_shards,
    evaluate_robustness,
)
from symmetry_robustness.robustness.checks.detection import false_positive_rates, scores_alike
from symmetry_robustness.robustness.measures.detection import Score, threshold_of
from symmetry_robustness.robustness.measures.layer_inconsistency import _NormalScores, logit_test, pooled, recovery

EPSILON = 0.06


@dataclass(frozen=True)
class Roughness(Detector):
    """Mean size of differences between neighbours: gradients of signs make images rough."""

    def fit(self, network: nn.Module, images: Tensor, seed: int) -> Score:
        return lambda seen: seen.diff(dim=3).abs().flatten(1).mean(1)


def draw(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    base = 0.3 + 0.4 * torch.rand((count, 3, 1, 2), generator=generator)
    return (
        base.repeat_interleave(4, dim=3).expand(-1, -1, 8, -1)
        + 0.02 * torch.rand((count, 3, 8, 8), generator=generator)
    ).clone()


def inputs(network: nn.Module, images: Tensor, calibration: Tensor | None, **settings: Any) -> MeasureInputs:
    with torch.no_grad():
        labels = network(images).argmax(1)
    return MeasureInputs(network, images, labels, np.arange(len(images)), calibration=calibration, **settings)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


# ---- statistics ----


@pytest.mark.parametrize("ties", [False, True])
def test_statistics_are_those_of_torchmetrics(ties: bool) -> None:
    generator = np.random.default_rng(0)
    positive, negative = generator.normal(1, 1, 300), generator.normal(0, 1, 300)
    if ties:
        positive, negative = positive.round(), negative.round()
    among = generator.random(300) < 0.7
    arrays = {"a": positive, "c": negative, "s": among}
    common = {"positive": "a", "negative": "c", "among": "s"}
    scores = torch.tensor(np.concatenate([positive[among], negative]))
    truth = torch.cat([torch.ones(int(among.sum()), dtype=torch.int64), torch.zeros(300, dtype=torch.int64)])
    # torchmetrics takes scores outside of [0, 1] for logits.
    scaled = (scores - scores.min()) / (scores.max() - scores.min())
    own = np.nanmean(statistic({"kind": "auroc", **common}, arrays))
    assert own == pytest.approx(float(auroc(scaled, truth, task="binary")), abs=1e-6)
    false, true, _ = roc(scaled, truth, task="binary")
    expected = float(false[true >= 0.95].min())
    assert np.nanmean(statistic({"kind": "fpr_at_tpr", "rate": 0.95, **common}, arrays)) == pytest.approx(
        expected, abs=1e-6
    )


def test_the_standard_error_of_the_area_counts_the_chance_of_both_kinds() -> None:
    """For images that are of one kind each it is DeLong's, whose second part few negative ones make the larger."""
    generator = np.random.default_rng(1)
    positive, negative = np.full(420, np.nan), np.full(420, np.nan)
    positive[:400], negative[400:] = generator.normal(1, 1, 400), generator.normal(0, 1, 20)
    above = (positive[:400, None] > negative[None, 400:]).astype(float)
    expected = math.sqrt(above.mean(1).var() / 400 + above.mean(0).var() / 20)
    values = statistic({"kind": "auroc", "positive": "a", "negative": "c"}, {"a": positive, "c": negative})
    assert values.mean() == pytest.approx(above.mean())
    assert values.std() / math.sqrt(420) == pytest.approx(expected)
    assert expected > 2 * above.mean(1).std() / math.sqrt(400)


def test_the_standard_error_of_the_area_holds_where_both_scores_are_of_one_image() -> None:
    generator = np.random.default_rng(2)
    areas, errors = [], []
    for _ in range(600):
        common = generator.normal(0, 1, 100)
        arrays = {"c": common + generator.normal(0, 0.3, 100), "a": common + 0.7 + generator.normal(0, 0.3, 100)}
        arrays["a"][generator.random(100) < 0.4] = np.nan
        values = statistic({"kind": "auroc", "positive": "a", "negative": "c"}, arrays)
        areas.append(values.mean())
        errors.append(values.std(ddof=1) / 10)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def test_thresholds_are_exceeded_by_no_more_than_the_rate() -> None:
    """Of n exchangeable scores and a new one, each is the largest with the same probability."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(300):
        threshold = threshold_of(torch.randn(99, generator=generator), 0.1)
        shares.append(float((torch.randn(500, generator=generator) > threshold).float().mean()))
    assert np.mean(shares) == pytest.approx(0.1, abs=0.006)


# ---- scores ----


@pytest.mark.parametrize(("count", "value"), [(2, 5.0), (4, 3.0), (9, 0.2)])
def test_recovery_of_equal_errors_and_of_one_layer(count: int, value: float) -> None:
    same = recovery(torch.full((1, count), value))
    assert float(same) == pytest.approx((count * math.log(count) - math.log(count)) * math.log(value), rel=1e-5)
    one = torch.zeros(1, count)
    one[0, -1] = large = 200.0
    assert float(recovery(one)) == pytest.approx(count * math.log(count) * math.log(large / count), rel=1e-5)


def test_masks_of_one_leave_the_guard() -> None:
    logits, features = torch.tensor([[2.0, 0.5, -1.0]]), [torch.rand(1, 4), torch.rand(1, 3)]
    p = logits.softmax(1)
    certain = torch.tensor([[1.0, 0, 0]])
    change = float((p - certain).square().mean() * -(p * p.log()).sum())
    expected = math.log(change + 1e-8) - math.log(1e-8)
    assert float(logit_test(logits, features, logits, features)) == pytest.approx(expected, rel=1e-5)


def test_normal_scores_are_monotone_normal_and_differentiable_beyond_the_sample() -> None:
    sample = torch.randn(999, generator=torch.Generator().manual_seed(0)).exp()
    mapped = _NormalScores(sample)
    found = mapped(sample)
    assert float(found.mean()) == pytest.approx(0, abs=1e-3)
    assert float(found.std()) == pytest.approx(1, abs=0.02)
    values = torch.linspace(-5, 100, 500).requires_grad_()
    assert (mapped(values).diff() >= 0).all()
    (gradient,) = torch.autograd.grad(mapped(values).sum(), values)
    assert (gradient[values < sample.min()] > 0).all()
    assert (gradient[values > sample.max()] > 0).all()
    # Two-sided scores of clean images are chi-square with one degree of freedom.
    fresh = torch.randn(4000, generator=torch.Generator().manual_seed(1)).exp()
    assert float((mapped(fresh).square() > 3.84).float().mean()) == pytest.approx(0.05, abs=0.02)


class Linear(nn.Module):
    """Layers whose pooled features are linear functions of the deepest one, which has the most channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(images)).flatten(2).mean(2))
        return logits


def test_features_that_follow_from_the_deepest_are_recovered() -> None:
    torch.manual_seed(0)
    network, images = Linear().eval(), torch.rand(300, 3, 4, 4) * torch.rand(300, 3, 1, 1)
    layers = ("first", "second", "head:input")
    spread = torch.stack([z.detach().var(0).sum() for z in pooled(network, images, layers)[1][:-1]]).mean()
    logs = []
    for epochs in (1, 60):
        score = LayerInconsistency("rt", epochs=epochs)._recovery_test(network, layers, images[:200])
        logs.append(
            float(score(images[200:]).detach().mean()) / math.log(2)
        )  # ln of the mean error where errors are small
    assert logs[1] < logs[0] - 1
    assert math.exp(logs[1]) < 0.2 * float(spread)


class Brightest(nn.Module):
    """Invariant under every permutation of pixels, layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(images).relu()).relu().flatten(2).amax(2))
        return logits


def test_scores_of_an_invariant_network_do_not_change_under_turns(network: nn.Module) -> None:
    torch.manual_seed(0)
    invariant, images = Brightest().eval(), torch.rand(90, 3, 8, 8)
    orbit = OrbitInconsistency().fit(invariant, images, 0)
    assert orbit(images).abs().max() < 1e-6
    assert OrbitInconsistency().fit(network, images, 0)(images).min() > 1e-6
    layers = LayerInconsistency("rt", epochs=3).fit(invariant, images, 0)
    turned = torch.rot90(images, 1, (2, 3))
    torch.testing.assert_close(layers(turned), layers(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rotations", [False, True])
def test_orbit_inconsistency_is_the_mean_divergence(network: nn.Module, rotations: bool) -> None:
    images = torch.rand(3, 3, 8, 8)
    found = OrbitInconsistency(rotations=rotations).fit(network, images, 0)(images)
    moved = [images.flip(3)]
    if rotations:
        moved = [torch.rot90(x, k, (2, 3)) for x in (images, images.flip(3)) for k in range(4)][1:]
    p = network(images).softmax(1)
    expected = torch.stack([(p * (p / network(x).softmax(1)).log()).sum(1) for x in moved]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "detector",
    [OrbitInconsistency(), *(LayerInconsistency(t, epochs=2, mask_epochs=1) for t in ("rt", "lt", "rlt"))],
    ids=str,
)  # type: ignore[arg-type]
def test_scores_are_finite_repeatable_differentiable_and_independent(network: nn.Module, detector: Detector) -> None:
    images = draw(60, 0)
    before = [weight.clone() for weight in network.state_dict().values()]
    score, again = (detector.fit(network, images, 3) for _ in range(2))
    seen = draw(12, 1).requires_grad_()
    values = score(seen)
    assert values.isfinite().all()
    torch.testing.assert_close(again(seen), values)
    torch.testing.assert_close(score(seen[5:7]), values[5:7], rtol=1e-3, atol=1e-4)
    (gradient,) = torch.autograd.grad(values.sum(), seen)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


# ---- the measure ----


def measured(**settings: Any) -> Detection:
    usual: dict[str, Any] = {"epsilon": EPSILON, "calibration_images": 800, "adaptive_steps": 10}
    return Detection(**{"detector": Roughness(), **usual, **settings})


def fragile() -> nn.Module:
    """A linear network of two classes that small changes deceive."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    network[1].weight.data *= 5
    return network


def test_a_detector_of_rough_images_finds_attacks_and_an_attack_that_knows_it_evades() -> None:
    """FGSM on a network of whole halves makes no difference inside of them; on noise it would."""
    network = fragile()
    found = measured(strengths=(1.0, 100.0), adaptive_steps=40).compute(inputs(network, draw(200, 1), draw(800, 2)))
    success, caught = found["success"], found["detected"]
    assert success.mean() > 0.3
    assert np.isnan(caught[~success]).all()
    assert np.nanmean(caught) > 0.9
    stated = measured().statistics
    assert np.nanmean(statistic(stated["auroc"], found)) > 0.95
    assert np.nanmean(statistic(stated["fpr95"], found)) < 0.2
    # The attack that knows the score is at least as well hidden, and here it evades.
    assert np.nanmean(statistic(stated["adaptive_auroc"], found)) < np.nanmean(statistic(stated["auroc"], found))
    assert np.nanmean(found["adaptive_detected"]) <= np.nanmean(caught)
    assert np.array_equal(np.isnan(found["adaptive"]), ~found["adaptive_success"])
    assert (found["adaptive_success"] >= success).all()
    assert (found["adaptive"][success] <= found["attacked"][success]).all()


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("detector", [Roughness(), LayerInconsistency("rlt", epochs=3, mask_epochs=1)], ids=str)
def test_false_positive_rate_holds_on_clean_test_images(network: nn.Module, detector: Detector, rate: float) -> None:
    measure = measured(detector=detector, false_positive_rate=rate, strengths=(), attack=FGSM())
    found = measure.compute(inputs(network, draw(500, 5), draw(800, 6)))
    error = math.sqrt(rate * (1 - rate) * (1 / 500 + 1 / 400))
    assert abs(found["false_positive"].mean() - rate) < 3.3 * error


def test_calibration_sees_neither_test_images_nor_labels(network: nn.Module) -> None:
    calibration, images = draw(100, 6), draw(30, 5)
    measure = measured(calibration_images=100, strengths=(), false_positive_rate=0.1)
    whole = inputs(network, images, calibration)
    found = measure.compute(whole)
    few = measure.compute(whole.take(slice(3, 9)))
    for name, values in few.items():
        np.testing.assert_allclose(values, found[name][3:9], rtol=1e-4, atol=1e-6)


def test_a_network_that_has_learned_since_is_calibrated_anew() -> None:
    network, images, calibration = fragile(), draw(20, 5), draw(100, 6)
    detector = OrbitInconsistency()
    measure = measured(detector=detector, calibration_images=100, strengths=(), false_positive_rate=0.1)
    before = measure._calibrate(inputs(network, images, calibration))
    assert measure._calibrate(inputs(network, images, calibration)) is before
    assert measure._calibrate(inputs(network, images, draw(100, 7))).threshold != before.threshold
    network[1].weight.data *= 2
    assert measure._calibrate(inputs(network, images, calibration)).threshold != before.threshold


def test_no_earlier_network_stays_alive() -> None:
    measure = measured(calibration_images=100, strengths=(), false_positive_rate=0.1)
    first = fragile()
    measure._calibrate(inputs(first, draw(5, 5), draw(100, 6)))
    alive = weakref.ref(first)
    del first
    measure._calibrate(inputs(fragile(), draw(5, 5), draw(100, 6)))
    gc.collect()
    assert alive() is None


def test_fewer_calibration_images_than_stated_are_refused(network: nn.Module) -> None:
    measure = measured(calibration_images=100, false_positive_rate=0.1)
    with pytest.raises(UserError, match="got 60 of 100"):
        measure.compute(inputs(network, draw(5, 1), draw(60, 0)))


def test_missing_calibration_and_unsuitable_settings_are_refused(network: nn.Module) -> None:
    for calibration in (None, draw(10, 0)):
        with pytest.raises(UserError, match="needs clean images for calibration"):
            measured().compute(inputs(network, draw(5, 1), calibration))
    for settings, named in (
        ({"detector": "orbit"}, "detector must be one"),
        ({"false_positive_rate": 0.0}, "false_positive_rate must lie"),
        ({"strengths": (-1.0,)}, "strengths must not be negative"),
        ({"norm": "spatial"}, "attack of the detection does not work in norm spatial"),
        ({"calibration_images": 10}, "calibration_images must be at least 40"),
        ({"adaptive_steps": 0}, "adaptive_steps"),
    ):
        with pytest.raises(UserError, match=named):
            measured(**settings)
    with pytest.raises(UserError, match="needs three layers"):
        LayerInconsistency().fit(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval(), draw(5, 0), 0)
    with pytest.raises(UserError, match="test must be"):
        LayerInconsistency("both")  # type: ignore[arg-type]


# ---- reports and checks ----


def test_reports_hold_statistics_and_survive_saving_and_sharding(tmp_path: Any) -> None:
    network = fragile()
    images, calibration = draw(60, 5), draw(200, 6)
    with torch.no_grad():
        labels = network(images).argmax(1)
    measure = measured(calibration_images=200, attack=PGD(steps=5), epsilon=0.04, strengths=(1.0,), adaptive_steps=3)
    protocol = EvaluationProtocol(measures={"rough": measure}, epsilons=[])
    whole = evaluate_robustness(network, images, labels, protocol, calibration=calibration)
    assert whole.measures["rough"]["success"].any()
    summary = whole.summary()
    expected = np.nanmean(statistic(measure.statistics["auroc"], whole.measures["rough"]))
    assert summary["measures.rough.auroc"] == pytest.approx(expected)
    assert "measures.rough.fpr95" in summary
    assert whole.measured("rough", "auroc").images == 60
    loaded = RobustnessReport.load(whole.save(tmp_path, "whole"))
    assert loaded.summary() == pytest.approx(summary, nan_ok=True)
    sharded = evaluate_in_shards(
        network, images, labels, protocol, tmp_path / "shards", shard_size=20, calibration=calibration
    )
    assert sharded is not None
    assert sharded.summary() == pytest.approx(summary, abs=1e-6, nan_ok=True)
    for report in (whole, sharded):
        statuses = {check.name: check.status for check in report.checks}
        assert statuses["same_preprocessing"] == statuses["false_positive_rate"] == "passed"
    settings = whole.settings["measures"]["rough"]
    assert settings["detector"]["class"] == "Roughness"
    assert settings["attack"]["class"] == "PGD"


@dataclass(frozen=True)
class Planted:
    """A detector's measure that normalises attacked images before it scores them, and clean ones not."""

    attack: Any = field(default_factory=lambda: PGD(steps=3))
    images: int | None = None
    calibration_images = 100
    means = ("success",)
    statistics = measured(strengths=()).statistics

    def unattacked(self) -> "Planted":
        return replace(self, attack=lambda network, images, labels, threat, generator=None: images)

    def compute(self, batch: MeasureInputs) -> dict[str, Tensor]:
        from symmetry_robustness.attacks import ThreatModel

        score = Roughness().fit(batch.network, batch.images, 0)
        attacked = self.attack(batch.network, batch.images, batch.labels, ThreatModel(epsilon=EPSILON))
        normalised = (attacked - 0.47) / 0.25
        wrong = batch.network(attacked).argmax(1) != batch.labels
        return {"clean": score(batch.images), "attacked": score(normalised).detach(), "success": wrong}


def test_a_planted_detector_with_other_preprocessing_is_caught(network: nn.Module) -> None:
    images = draw(60, 5)
    with torch.no_grad():
        labels = network(images).argmax(1)
    statuses = {}
    for name, measure in (
        ("planted", Planted()),
        ("sound", measured(calibration_images=100, strengths=(), false_positive_rate=0.1)),
    ):
        protocol = EvaluationProtocol(measures={name: measure}, epsilons=[])
        report = evaluate_robustness(network, images, labels, protocol, calibration=draw(100, 6))
        statuses[name] = {check.name: check.status for check in report.checks}["same_preprocessing"]
    assert statuses == {"planted": "failed", "sound": "passed"}


def test_a_measure_that_cannot_be_tried_is_said(network: nn.Module) -> None:
    measure = Planted()
    blind = type("Blind", (), {"statistics": measure.statistics, "compute": measure.compute, "images": None})()
    [check] = scores_alike(inputs(network, draw(5, 1), draw(40, 2)), {"blind": blind})
    assert check.status == "warned"
    assert "unattacked" in check.evidence


@pytest.mark.parametrize(("share", "status"), [(0.0, "passed"), (0.06, "passed"), (0.12, "warned"), (0.5, "failed")])
def test_detectors_that_flag_too_many_clean_images_are_said(share: float, status: str) -> None:
    count = 400
    rows = np.arange(count)
    report = RobustnessReport(
        "linf", (), rows, rows, rows, {}, {},
        measures={"d": {"indices": rows, "false_positive": rows < share * count}},
        settings={"measures": {"d": {"false_positive_rate": 0.05, "calibration_images": 400}}},
    )  # fmt: skip
    [check] = false_positive_rates(report)
    assert check.status == status
