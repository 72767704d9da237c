"""Laws that hold for every objective."""

import copy
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn import functional as F

from symmetry_robustness import load_config
from symmetry_robustness.data import AugMix
from symmetry_robustness.errors import UserError
from symmetry_robustness.training import CleanAndFGSM, CrossEntropy, Objective
from symmetry_robustness.training.objectives import (
    JSIGR,
    MART,
    NFGSM,
    TRADES,
    AdversarialWeightPerturbation,
    AttributionGuided,
    AugMixConsistency,
    Curvature,
    FGSMRandomStart,
    FreeTraining,
    GradAlign,
    HSICBottleneck,
    InputGradient,
    Jacobian,
    JointSpace,
    LearnFromPast,
    MetricLearning,
    OrbitConsistency,
    PGDTraining,
)
from symmetry_robustness.training.objectives.base import check_result, run_update, term_names

from .networks import CLASSES, Counter, batch, smooth_network

CONF = Path(__file__).parents[3] / "conf" / "objective"
OBJECTIVES: list[Objective] = [
    CrossEntropy(),
    CleanAndFGSM(),
    PGDTraining(),
    PGDTraining(steps=3, norm="l2", epsilon=0.5, crafted_in="evaluation"),
    TRADES(),
    FGSMRandomStart(),
    NFGSM(),
    InputGradient(),
    InputGradient(norm="l1"),
    InputGradient(norm="l2", method="double_backward"),
    InputGradient(norm="l1", method="double_backward"),
    Jacobian(),
    Jacobian(projections=CLASSES),
    Curvature(),
    MART(),
    OrbitConsistency(),
    OrbitConsistency(candidates=4, distance="l2", scales=(0.8, 1.25)),
    GradAlign(),
    GradAlign("16/255", crafted_in="evaluation"),
    AugMixConsistency(AugMix()),
    HSICBottleneck(),
    HSICBottleneck("8/255", steps=2, crafted_in="training", layers=("1", "5:input")),
    MetricLearning(),
    MetricLearning(0, norm_strength=0.0, layer="4"),
    JSIGR(),
    JSIGR(projections=CLASSES),
    JSIGR(gradient_strength=0.0),
    JSIGR(0.0),
    AttributionGuided(),
    AttributionGuided(0, samples=5, grid=2),
    AttributionGuided(hidden_strength=0.0, steps=1),
    AttributionGuided(gradient_strength=0.0, attacked_strength=0.0),
    AttributionGuided(hidden_strength=0.0, gradient_strength=0.0),
    JointSpace(),
    JointSpace(0),
    JointSpace(method="interpolated"),
    JointSpace(0, method="interpolated"),
    AdversarialWeightPerturbation(),
    AdversarialWeightPerturbation(TRADES(steps=2), gamma=0.1),
    AdversarialWeightPerturbation(InputGradient(method="double_backward")),
    AdversarialWeightPerturbation(HSICBottleneck(0.1, steps=2)),
    AdversarialWeightPerturbation(MetricLearning(steps=2)),
    AdversarialWeightPerturbation(AttributionGuided(samples=4, steps=2)),
    AdversarialWeightPerturbation(JointSpace(steps=2)),
    FreeTraining(replays=3),
    LearnFromPast(),
    LearnFromPast(MART(steps=2), mu=0.0),
]
# With these settings nothing is left but the cross-entropy.
CROSS_ENTROPIES: list[Objective] = [
    PGDTraining(0),
    TRADES(0.0),
    TRADES(beta=0.0),
    FGSMRandomStart("0"),
    NFGSM(0),
    InputGradient(0.0),
    InputGradient(0.0, method="double_backward"),
    Jacobian(0.0),
    Curvature(0.0),
    OrbitConsistency(0.0),
    GradAlign("0/255"),
    AdversarialWeightPerturbation(CrossEntropy(), gamma=0.0),
    FreeTraining(0, replays=1),
    AugMixConsistency(AugMix(), 0.0),
    HSICBottleneck(0, image_strength=0.0, label_strength=0.0),
    MetricLearning(0, strength=0.0),
    JSIGR(0.0, gradient_strength=0.0),
    AttributionGuided(hidden_strength=0.0, gradient_strength=0.0, attacked_strength=0.0),
    AttributionGuided(0, hidden_strength=0.0, gradient_strength=0.0),
    JointSpace(0, alpha=0.0),
    JointSpace(0, method="interpolated", alpha=0.0),
]
# With these only the cross-entropy of PGD images is.
PGD_TRAININGS: list[tuple[Objective, PGDTraining]] = [
    (HSICBottleneck(0.1, image_strength=0.0, label_strength=0.0), PGDTraining(0.1, crafted_in="evaluation")),
    (MetricLearning(0.1, strength=0.0), PGDTraining(0.1, crafted_in="evaluation", steps=7)),
    (JointSpace(0.1, alpha=0.0), PGDTraining(0.1, steps=7)),
]
IMPOSSIBLE = [
    lambda: PGDTraining(8),
    lambda: PGDTraining(-0.1),
    lambda: PGDTraining("8/0"),
    lambda: PGDTraining(steps=0),
    lambda: PGDTraining(norm="l3"),  # type: ignore[arg-type]
    lambda: PGDTraining(relative_step_size=0.0),
    lambda: PGDTraining(crafted_in="eval"),  # type: ignore[arg-type]
    lambda: TRADES(beta=-1.0),
    lambda: TRADES(beta=float("nan")),
    lambda: TRADES(start_noise=0.0),
    lambda: FGSMRandomStart(relative_step_size=float("inf")),
    lambda: NFGSM(noise=-1.0),
    lambda: NFGSM(float("nan")),
    lambda: InputGradient(-1.0),
    lambda: InputGradient(norm="linf"),  # type: ignore[arg-type]
    lambda: InputGradient(method="exact"),  # type: ignore[arg-type]
    lambda: InputGradient(step=0.0),
    lambda: Jacobian(projections=0),
    lambda: Jacobian(projections=CLASSES + 1)(smooth_network(), *batch()),
    lambda: Curvature(step=-1.0),
    lambda: MART(beta=-1.0),
    lambda: MART(epsilon=2.0),
    lambda: OrbitConsistency(candidates=0),
    lambda: OrbitConsistency(distance="l1"),  # type: ignore[arg-type]
    lambda: OrbitConsistency(scales=(1.25, 0.8)),
    lambda: OrbitConsistency(scales=(0.0, 1.0)),
    lambda: OrbitConsistency(rotations=False, flips=False),
    lambda: OrbitConsistency().transform(torch.rand(2, 3, 4, 5)),
    lambda: GradAlign(strength=-0.2),
    lambda: HSICBottleneck(image_strength=-1.0),
    lambda: HSICBottleneck(label_strength=float("nan")),
    lambda: HSICBottleneck(bandwidth=0.0),
    lambda: HSICBottleneck(steps=0),
    lambda: HSICBottleneck(layers=("nowhere",))(smooth_network(), *batch()),
    lambda: MetricLearning(margin=-0.1),
    lambda: MetricLearning(strength=float("inf")),
    lambda: MetricLearning(noise=8),
    lambda: MetricLearning(norm_strength=-1.0),
    lambda: JSIGR(kept=1.5),
    lambda: JSIGR(gradient_strength=-1.0),
    lambda: JSIGR(projections=0),
    lambda: JSIGR(projections=CLASSES + 1)(smooth_network(), *batch()),
    lambda: AttributionGuided(quantile=-0.1),
    lambda: AttributionGuided(ridge=0.0),
    lambda: AttributionGuided(kernel_width=0.0),
    lambda: AttributionGuided(samples=0),
    lambda: AttributionGuided(hidden_strength=-1.0),
    lambda: AttributionGuided(grid=5)(smooth_network(), *batch()),
    lambda: JointSpace(method="mixup"),  # type: ignore[arg-type]
    lambda: JointSpace(alpha=-1.0),
    lambda: AdversarialWeightPerturbation(gamma=-0.01),
    lambda: AdversarialWeightPerturbation(start_epoch=-1),
    lambda: AdversarialWeightPerturbation(FreeTraining()),
    lambda: FreeTraining(2.0),
    lambda: FreeTraining(replays=0),
    lambda: FreeTraining(relative_step_size=0.0),
    lambda: LearnFromPast(CrossEntropy()),
    lambda: LearnFromPast(gamma=1.5),
    lambda: LearnFromPast(mu=-0.1),
    lambda: LearnFromPast(temperature=0.0),
]


def gradients(objective: Objective, network: nn.Module, seed: int = 0) -> list[torch.Tensor]:
    """Loss and gradients of the parameters in training mode; the network is not changed."""
    network = copy.deepcopy(network).train()
    torch.manual_seed(seed)
    images, labels = batch()
    loss, logits = objective(network, images, labels)
    assert logits.shape == (len(images), CLASSES)
    loss.backward()  # type: ignore[no-untyped-call]
    return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None), *network.buffers()]


@pytest.mark.parametrize("objective", CROSS_ENTROPIES, ids=repr)
def test_without_its_term_an_objective_is_cross_entropy_bit_for_bit(objective: Objective) -> None:
    network = smooth_network()
    found, expected = gradients(objective, network), gradients(CrossEntropy(), network)
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("objective", "expected"), PGD_TRAININGS, ids=repr)
def test_without_its_term_an_objective_is_pgd_training_bit_for_bit(objective: Objective, expected: PGDTraining) -> None:
    network = smooth_network()
    found, others = gradients(objective, network), gradients(expected, network)
    assert all(torch.equal(one, other) for one, other in zip(found, others, strict=True))
    assert objective.passes == expected.passes  # type: ignore[attr-defined]


@pytest.mark.parametrize("objective", [*OBJECTIVES, *CROSS_ENTROPIES], ids=repr)
def test_the_passes_are_those_stated(objective: Objective) -> None:
    network, (images, labels) = smooth_network().train(), batch()
    run_update(objective, network, lambda: objective(network, images, labels)[0].backward())  # type: ignore[no-untyped-call]
    (counter,) = (module for module in network.modules() if isinstance(module, Counter))
    found = counter.forward_images / len(images), counter.backward_images / len(images)
    assert found == objective.passes  # type: ignore[attr-defined]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_a_step_leaves_modes_gradients_and_the_images_alone(objective: Objective) -> None:
    network, (images, labels) = smooth_network().train(), batch()
    network[1].eval()  # a frozen layer stays frozen
    modes, before = [module.training for module in network.modules()], images.clone()
    statistics = [buffer.clone() for buffer in network.buffers()]
    objective(network, images, labels)
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert all(torch.equal(now, then) for now, then in zip(network.buffers(), statistics, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_a_step_is_a_function_of_the_global_generator(objective: Objective) -> None:
    network = smooth_network()
    first, second = gradients(objective, network), gradients(objective, network)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_every_parameter_learns_under_bfloat16(objective: Objective) -> None:
    network, (images, labels) = smooth_network().train(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = objective(network, images, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network[0].parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network[5].parameters())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_gradients_of_two_batches_add_up(objective: Objective) -> None:
    network = smooth_network().eval()
    parts, together = [batch(), batch()], copy.deepcopy(network)
    torch.manual_seed(0)
    for images, labels in parts:
        objective(together, images, labels)[0].backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    alone = [copy.deepcopy(network) for _ in parts]
    for copied, (images, labels) in zip(alone, parts, strict=True):
        objective(copied, images, labels)[0].backward()  # type: ignore[no-untyped-call]
    for total, *single in zip(together.parameters(), *(n.parameters() for n in alone), strict=True):
        torch.testing.assert_close(total.grad, sum(p.grad for p in single))


@pytest.mark.parametrize("make", IMPOSSIBLE)
def test_settings_out_of_range_are_refused_in_one_line(make: object) -> None:
    with pytest.raises(UserError) as refused:
        make()  # type: ignore[operator]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_states_all_settings_with_their_defaults(path: Path) -> None:
    config = load_config("train", [f"objective={path.stem}"]).objective
    objective = instantiate(config)
    settings = [part for part in fields(objective) if part.init]
    assert set(config) - {"_target_"} == {part.name for part in settings}
    required = [part.name for part in settings if part.default is part.default_factory is MISSING]
    assert objective == type(objective)(**{name: getattr(objective, name) for name in required})


def test_without_an_attack_the_loss_is_torch_s() -> None:
    network, (images, labels) = smooth_network().eval(), batch()
    loss, logits = PGDTraining(0)(network, images, labels)
    assert torch.equal(loss, F.cross_entropy(network(images), labels))
    assert torch.equal(logits, network(images))


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (torch.zeros(()), r"a tensor \(\)"),
        ((torch.zeros(4), torch.zeros(4, 3)), r"a tensor \(4,\) and a tensor \(4, 3\)"),
        ((torch.zeros(4, 3), torch.zeros(())), r"a tensor \(4, 3\) and a tensor \(\)"),
        ((torch.zeros(()), torch.zeros(4, 2)), r"a tensor \(\) and a tensor \(4, 2\)"),
        ((0.5, torch.zeros(4, 3)), r"float and a tensor \(4, 3\)"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_loss_with_logits_is_refused(found: object, named: str) -> None:
    with pytest.raises(UserError, match=rf"objective CrossEntropy returned {named} for 4 images; return a pair"):
        check_result(CrossEntropy(), found, 4, 3)


class Termed(CrossEntropy):
    terms: Any = ("penalty",)


@pytest.mark.parametrize("terms", [{}, {"other": torch.zeros(())}, {"penalty": 0.5}, {"penalty": torch.zeros(4)}, None])
def test_terms_that_are_not_the_named_ones_are_refused(terms: object) -> None:
    found = torch.zeros((), requires_grad=True), torch.zeros(4, 3)
    assert check_result(Termed(), (*found, {"penalty": torch.ones(())}), 4, 3)[2] == {"penalty": 1}
    named = r"Termed names in `terms` \['penalty'\] and returned .* behind the logits; return a dict"
    with pytest.raises(UserError, match=named):
        check_result(Termed(), (*found, terms), 4, 3)
    with pytest.raises(UserError, match=r"CrossEntropy names in `terms` \[\] and returned \['penalty'\]"):
        check_result(CrossEntropy(), (*found, {"penalty": torch.ones(())}), 4, 3)


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ("penalty", r"must be names, as in \('penalty',\), got 'penalty'"),
        (("a b",), "must be names"),
        (7, "must be names"),
        (("loss",), "calls a term loss, as every training calls a metric of its own"),
    ],
)
def test_terms_that_cannot_be_logged_are_refused(terms: object, told: str) -> None:
    objective = Termed()
    objective.__dict__["terms"] = terms
    with pytest.raises(UserError, match=told):
        term_names(objective)


def test_a_loss_without_gradient_is_refused() -> None:
    with pytest.raises(UserError, match="CrossEntropy returned a loss without gradient"):
        check_result(CrossEntropy(), (torch.zeros(()), torch.zeros(4, 3)), 4, 3)
