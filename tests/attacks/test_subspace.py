"""Laws of subspaces: projections, the whole space, and the closed form of a linear network."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import (
    FAB,
    PGD,
    InSubspace,
    LowFrequencies,
    Span,
    ThreatModel,
    principal_components,
)
from symmetry_robustness.attacks.subspace import Subspace, cosines
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness

SHAPE = (3, 6, 6)


def random_span(rank: int, seed: int = 0) -> Span:
    matrix = torch.randn(108, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Span(torch.linalg.qr(matrix).Q.T.float().reshape(rank, *SHAPE))


def noise(count: int, seed: int = 1) -> Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def matrix_of(subspace: Subspace) -> Tensor:
    """The projector as a matrix (D, D), column by column."""
    return subspace.project(torch.eye(108).reshape(108, *SHAPE)).flatten(1).T


@pytest.mark.parametrize(("subspace", "rank"), [(LowFrequencies(2), 12), (LowFrequencies(5), 75), (random_span(7), 7)])
def test_projector_is_idempotent_symmetric_and_of_its_rank(subspace: Subspace, rank: int) -> None:
    projector = matrix_of(subspace)
    torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=1e-5)
    torch.testing.assert_close(projector, projector.T, rtol=0, atol=1e-6)
    assert float(projector.trace()) == pytest.approx(rank, abs=1e-4)


def test_cosines_are_those_of_scipy() -> None:
    from scipy.fft import dct

    torch.testing.assert_close(cosines(7).T, torch.as_tensor(dct(torch.eye(7).double().numpy(), norm="ortho")))


def test_low_frequencies_keep_smooth_waves_and_drop_fast_ones() -> None:
    waves = torch.einsum("i,j->ij", cosines(6)[1], cosines(6)[2]).float().expand(1, 3, 6, 6)
    torch.testing.assert_close(LowFrequencies(3).project(waves), waves, rtol=0, atol=1e-6)
    assert LowFrequencies(2).project(waves).abs().max() < 1e-6


def test_principal_components_explain_most_and_span_the_images() -> None:
    images = torch.einsum("nk,kchw->nchw", torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), noise(4, 2))
    span, centred = principal_components(images, 4), images - images.mean(0)
    torch.testing.assert_close(span.project(centred), centred, rtol=0, atol=1e-4)
    best = float(principal_components(images, 2).project(centred).square().sum())
    assert all(
        best >= float(Span(q).project(centred).square().sum()) for q in (random_span(2, s).directions for s in range(5))
    )


def classifier(seed: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)).eval()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("attack", [PGD(steps=5), PGD(steps=4, momentum=1.0, random_start=True)], ids=str)
def test_the_whole_space_is_plain_pgd(norm: str, attack: PGD) -> None:
    network, images, threat = classifier(), torch.rand((4, *SHAPE)), ThreatModel(norm, 0.3)  # type: ignore[arg-type]
    labels = network(images).argmax(1)
    alone = attack(network, images, labels, threat)
    assert not torch.equal(alone, images)
    within = InSubspace(attack, LowFrequencies(6))(network, images, labels, threat)
    torch.testing.assert_close(within, alone, rtol=0, atol=1e-6)
    if norm == "l2":  # of linf and l1, rounding may change the sign or the place of a derivative near zero
        within = InSubspace(attack, random_span(108))(network, images, labels, threat)
        torch.testing.assert_close(within, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("subspace", [LowFrequencies(2), random_span(9)], ids=["frequencies", "span"])
def test_l2_attack_of_a_linear_network_reaches_the_closed_form(subspace: Subspace) -> None:
    """The best perturbation is epsilon U Uᵀ w / ‖U Uᵀ w‖, and gains epsilon ‖U Uᵀ w‖."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).eval()
    linear[1].weight.data = torch.randn(2, 108, generator=torch.Generator().manual_seed(4))
    images, labels, threat = torch.full((3, *SHAPE), 0.5), torch.tensor([0, 1, 0]), ThreatModel("l2", 0.1)
    attack = InSubspace(PGD(steps=10), subspace)
    attacked = attack(linear, images, labels, threat)
    slope = subspace.project((linear[1].weight[1] - linear[1].weight[0]).detach().reshape(1, *SHAPE))
    sign = torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
    torch.testing.assert_close(attacked - images, sign * 0.1 * slope / slope.norm(), rtol=0, atol=1e-6)
    assert attack.residual(attacked, images).max() < 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_iterates_lie_in_the_ball_and_nearer_to_the_subspace_with_more_alternations(norm: str) -> None:
    network, images, threat = classifier(), torch.rand((4, *SHAPE)), ThreatModel(norm, 0.5)  # type: ignore[arg-type]
    labels = network(images).argmax(1)
    residuals = []
    for alternations in (1, 50):
        attack = InSubspace(PGD(steps=6), LowFrequencies(3), alternations)
        attacked = attack(network, images, labels, threat)
        assert (threat.excess(attacked, images) <= 1e-6).all()
        assert not torch.equal(attacked, images)
        residuals.append(float(attack.residual(attacked, images).mean()))
    outside = float(
        InSubspace(PGD(), LowFrequencies(3)).residual(PGD(steps=6)(network, images, labels, threat), images).mean()
    )
    assert residuals[1] < residuals[0] < outside


def test_the_evaluator_drives_it_and_states_its_subspace() -> None:
    network, images = classifier(), torch.rand((6, *SHAPE))
    labels = network(images).argmax(1)
    attacks = {
        "plain": PGD(steps=10),
        "low": InSubspace(PGD(steps=10), LowFrequencies(2)),
        "span": InSubspace(PGD(steps=10), random_span(3)),
    }
    report = evaluate_robustness(network, images, labels, EvaluationProtocol(attacks=attacks, epsilons=[0.05, 0.1]))
    stated = report.settings["attacks"]
    assert stated["low"]["subspace"] == {"class": "LowFrequencies", "side": 2}
    assert stated["span"]["subspace"]["directions"] == 3
    assert stated["span"]["subspace"]["digest"] != InSubspace(PGD(), random_span(3, 9)).describe()["subspace"]["digest"]
    assert report.accuracy("plain", 0.1).value <= report.accuracy("low", 0.1).value


def test_unsuitable_settings_are_refused() -> None:
    with pytest.raises(UserError, match="not orthonormal"):
        Span(2 * random_span(2).directions)
    with pytest.raises(UserError, match="must be a tensor"):
        Span(torch.zeros(3, 4))
    with pytest.raises(UserError, match="count must be at most 4"):
        principal_components(noise(5), 5)
    with pytest.raises(UserError, match="must be one"):
        InSubspace(PGD(), "low")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must follow a gradient"):
        InSubspace(FAB(), LowFrequencies())
    with pytest.raises(UserError, match=r"\(3, 6, 6\), images \(3, 8, 8\)"):
        random_span(2).project(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="side"):
        LowFrequencies(0)
