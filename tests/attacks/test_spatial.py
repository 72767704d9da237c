"""Laws of the spatial threat: exact moves, sizes of changes, and searches that find at least what they must."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.attacks import FAB, PGD, SpatialGrid, SpatialRandom, SpatialThreat, ThreatModel, TorchAttack
from symmetry_robustness.attacks.spatial import transformed
from symmetry_robustness.attacks.threats import THREATS, make_threat
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness import EvaluationProtocol, Source, Transfer, evaluate_robustness


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((12, 3, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def labels(plain: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return plain(images).argmax(1)


def moved(images: Tensor, angle: float = 0, right: float = 0, down: float = 0) -> Tensor:
    return SpatialThreat().realize(torch.tensor([[angle, right, down]]).expand(len(images), 3), images)


@pytest.mark.parametrize("turns", [-3, -2, -1, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [7, 8])
def test_quarter_turns_move_pixels_and_change_none(turns: int, size: int) -> None:
    pixels = torch.rand(2, 3, size, size)
    assert torch.equal(moved(pixels, angle=90 * turns), torch.rot90(pixels, turns, (2, 3)))


@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, 0), (-3, 1), (0, -2), (20, 0)])
def test_whole_shifts_move_pixels_and_bring_in_black(images: Tensor, right: int, down: int) -> None:
    expected = torch.zeros_like(images)
    for row in range(8):
        for column in range(8):
            if 0 <= row - down < 8 and 0 <= column - right < 8:
                expected[:, :, row, column] = images[:, :, row - down, column - right]
    assert torch.equal(moved(images, right=right, down=down), expected)


@pytest.mark.parametrize(("angle", "right", "down"), [(17.0, 0.0, 0.0), (-25.0, 1.3, -0.4), (0.0, 0.5, 0.25)])
def test_resampling_is_that_of_torch(images: Tensor, angle: float, right: float, down: float) -> None:
    turn = math.radians(angle)
    c, s = math.cos(turn), math.sin(turn)
    # Undo the shift, then the rotation; torch's coordinates go from -1 to 1 over 8 pixels.
    shift = torch.tensor([right, down], dtype=torch.float64) / 4
    back = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    theta = torch.cat([back, -(back @ shift)[:, None]], dim=1).expand(len(images), 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    expected = functional.grid_sample(images.double(), grid, padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(moved(images, angle, right, down), expected.float(), rtol=0, atol=1e-5)


def test_each_image_gets_its_own_change(images: Tensor) -> None:
    points = torch.rand(12, 3) * 6 - 3
    whole = SpatialThreat().realize(points, images)
    for row in range(12):
        alone = transformed(images[row : row + 1], *(points[row : row + 1, n] for n in range(3)))
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=0)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0])
def test_sizes_are_shares_of_the_limits(epsilon: float, images: Tensor) -> None:
    threat = SpatialThreat(epsilon)
    shares = torch.tensor([[1.0, 0.2, 0.0], [0.0, -1.0, 1.0], [0.5, 0.25, -0.25], [1.1, 0.0, 0.0]])
    points = threat.scaled(shares)
    expected = epsilon * torch.tensor([1.0, 1.0, 0.5, 1.1], dtype=torch.float64)
    torch.testing.assert_close(threat.distance(points, images[:4]), expected, rtol=0, atol=1e-6)
    assert (threat.excess(points, images[:4]) > 1e-6).tolist() == [False, False, False, True]
    assert threat.excess(torch.tensor([[torch.nan, 0, 0]]), images[:1]).isposinf().all()
    assert (threat.excess(threat.far_points(images, keyed_generator(0)), images) <= 1e-6).all()


@pytest.mark.parametrize("name", THREATS)
def test_all_threats_keep_one_contract(name: str, images: Tensor) -> None:
    """A point has its shape; it is realised inside the bounds; random points lie inside, and smaller ones there too."""
    threat, larger = make_threat(name, 0.5), make_threat(name, 1.0)
    points = threat.far_points(images, keyed_generator(0))
    assert tuple(points.shape) == threat.point_shape(images)
    changed = threat.realize(points, images)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, images)
    assert (threat.excess(points, images) <= 1e-6).all()
    assert (larger.excess(points, images) <= 1e-6).all()
    assert threat.distance(points, images).shape == (12,)
    assert (threat.distance(points, images) <= 0.5 + 1e-6).all()
    assert (threat.distance(points, images) > 0.02).all()
    assert threat.norm == name


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_grid_tries_the_image_itself_and_reaches_the_limits(epsilon: float, images: Tensor) -> None:
    threat, grid = SpatialThreat(epsilon), SpatialGrid(rotations=5, translations=3)
    points = grid.candidates(threat, images, keyed_generator(0))
    assert points.shape == (12, 45, 3)
    assert grid.steps == grid.cost == 45
    assert len(points[0].unique(dim=0)) == 45
    assert (points == 0).all(2).any(1).all()
    torch.testing.assert_close(points.amax((0, 1)), epsilon * torch.tensor([30.0, 3, 3]))
    torch.testing.assert_close(points.amin((0, 1)), epsilon * torch.tensor([-30.0, -3, -3]))
    assert SpatialGrid().steps == 775


def test_search_returns_the_smallest_change_that_deceives_or_the_one_of_largest_loss(
    plain: nn.Module, images: Tensor, labels: Tensor
) -> None:
    threat, attack = SpatialThreat(0.1), SpatialGrid(rotations=5, translations=3)
    found = attack(plain, images, labels, threat)
    points = attack.candidates(threat, images, keyed_generator(0))
    with torch.no_grad():
        logits = torch.stack([plain(threat.realize(points[:, n], images)) for n in range(45)], dim=1)
    fooled, sizes = (
        logits.argmax(2) != labels[:, None],
        torch.stack([threat.distance(points[:, n], images) for n in range(45)], dim=1),
    )
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(45), reduction="none").reshape(
        12, 45
    )
    assert fooled.any(1).any()
    assert not fooled.any(1).all()
    for row in range(12):
        place = int((points[row] == found[row]).all(1).nonzero()[0, 0])
        if fooled[row].any():
            assert fooled[row, place]
            assert sizes[row, place] == sizes[row][fooled[row]].min()
        else:
            assert losses[row, place] >= losses[row].max() - 1e-6


def evaluated(network: nn.Module, images: Tensor, labels: Tensor, **attacks: object) -> dict[str, np.ndarray]:
    protocol = EvaluationProtocol(attacks=attacks, norm="spatial", epsilons=[0.1, 0.2])  # type: ignore[arg-type]
    report = evaluate_robustness(network, images, labels, protocol)
    return {name: report.curve(name) for name in report.minimal_epsilon} | {"clean": report.clean_correct}


def test_robust_accuracy_is_at_most_clean_accuracy_and_falls_with_size(
    plain: nn.Module, images: Tensor, labels: Tensor
) -> None:
    wrong = labels.clone()
    wrong[:3] = (wrong[:3] + 1) % 4
    found = evaluated(plain, images, wrong, grid=SpatialGrid(7, 3), random=SpatialRandom(20))
    for name in ("grid", "random"):
        assert (found[name] <= found["clean"][:, None]).all()
        assert (found[name][:, 1] <= found[name][:, 0]).all()
        assert found[name].any()
        assert not found[name][3:].all()


class FromGrid:
    """Random points of a grid."""

    norms = ("spatial",)
    steps = 4

    def __init__(self, grid: SpatialGrid, seed: int) -> None:
        self.grid, self.seed = grid, seed

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: SpatialThreat, generator: object = None
    ) -> Tensor:
        points = self.grid.candidates(threat, images, keyed_generator(0))
        chosen = torch.randint(points.shape[1], (4, len(images)), generator=keyed_generator(self.seed))
        rows, best = torch.arange(len(images)), points[:, 0]
        for number in chosen:
            tried = points[rows, number]
            fooled = network(threat.realize(tried, images)).argmax(1) != labels
            best = torch.where(fooled[:, None], tried, best)
        return best


@pytest.mark.parametrize("seed", range(4))
def test_grid_breaks_whatever_random_points_of_it_break(
    plain: nn.Module, images: Tensor, labels: Tensor, seed: int
) -> None:
    grid = SpatialGrid(rotations=7, translations=3)
    found = evaluated(plain, images, labels, grid=grid, random=FromGrid(grid, seed))
    assert (found["grid"] <= found["random"]).all()
    assert not found["random"].all()


class Brightest(nn.Module):
    """The largest value of each class over all pixels, invariant under every permutation of them."""

    def __init__(self) -> None:
        super().__init__()
        self.pixelwise = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.pixelwise(images)
        return values.flatten(2).amax(2)


def test_quarter_turns_break_nothing_on_an_exactly_invariant_network(images: Tensor, plain: nn.Module) -> None:
    torch.manual_seed(3)
    network, turns = Brightest().eval(), SpatialGrid(rotations=5, translations=1)
    protocol = EvaluationProtocol(attacks={"turns": turns}, norm="spatial", epsilons=[6.0])  # ±180°
    for model, unchanged in ((network, True), (plain, False)):
        with torch.no_grad():
            truth = model(images).argmax(1)
        truth[0] = (truth[0] + 1) % 4
        report = evaluate_robustness(model, images, truth, protocol)
        assert np.array_equal(report.correct("turns", 6.0), report.clean_correct) is unchanged


def test_results_of_an_image_do_not_depend_on_the_others(plain: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack, threat = SpatialRandom(5), SpatialThreat()
    sources = [keyed_generator(0, row) for row in range(12)]
    whole = attack(plain, images, labels, threat, sources)
    part = attack(plain, images[7:9], labels[7:9], threat, [keyed_generator(0, row) for row in (7, 8)])
    assert torch.equal(part, whole[7:9])
    assert attack.is_random
    assert not SpatialGrid().is_random


def test_reports_are_those_of_any_threat(plain: nn.Module, images: Tensor, labels: Tensor, tmp_path: object) -> None:
    protocol = EvaluationProtocol(
        attacks={"random": SpatialRandom(), "grid": SpatialGrid(5, 3)},
        norm="spatial",
        epsilons=[0.5, 1.0],
        keep_examples=3,
    )
    report = evaluate_robustness(plain, images, labels, protocol)
    saved = type(report).load(report.save(tmp_path, "spatial"))  # type: ignore[arg-type]
    assert saved.norm == "spatial"
    assert "worst_case.spatial_1" in saved.summary()
    assert saved.examples["grid"].shape == (3, 3, 8, 8)
    checks = {check.name: check.status for check in saved.checks}
    assert checks["inside_ball"] == checks["epsilon_range"] == "passed"
    assert "noise_attack" in checks
    assert {"longer_attack", "gradient_free_attack", "zero_at_large_epsilon"}.isdisjoint(checks)
    broken = report.distance["grid"][np.isfinite(report.distance["grid"]) & (report.distance["grid"] > 0)]
    assert len(broken)
    assert (
        (broken <= 1 + 1e-6)
        & (report.minimal_epsilon["grid"][np.isin(report.distance["grid"], broken)] >= broken - 1e-6)
    ).all()


class Outside:
    """Turns by more than it may."""

    norms = ("spatial",)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: SpatialThreat, generator: object = None
    ) -> Tensor:
        return threat.scaled(torch.tensor([[1.5, 0.0, 0.0]])).expand(len(images), 3)


class Images:
    """Returns images where points are due."""

    norms = ("spatial",)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: SpatialThreat, generator: object = None
    ) -> Tensor:
        return images


def test_what_leaves_the_threat_does_not_count(plain: nn.Module, images: Tensor, labels: Tensor) -> None:
    protocol = EvaluationProtocol(attacks={"outside": Outside()}, norm="spatial", epsilons=[1.0])
    report = evaluate_robustness(plain, images, labels, protocol)
    assert report.correct("outside", 1.0).all()
    assert {check.name: check.status for check in report.checks}["inside_ball"] == "failed"
    with pytest.raises(UserError, match=r"attack images returned the shape .* return points of the threat, \(12, 3\)"):
        evaluate_robustness(
            plain, images, labels, EvaluationProtocol(attacks={"images": Images()}, norm="spatial", epsilons=[1.0])
        )


def test_it_transfers(plain: nn.Module, images: Tensor, labels: Tensor) -> None:
    torch.manual_seed(5)
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    both = Transfer([Source("other", other), Source("itself", plain)], SpatialGrid(5, 3))
    assert both(plain, images, labels, SpatialThreat(), None).shape == (12, 3)
    found = evaluated(plain, images, labels, grid=SpatialGrid(5, 3), moved=both)
    assert np.array_equal(found["moved_from_itself"], found["grid"])
    assert (found["grid"] <= found["moved_from_other"]).all()


def test_attacks_and_threats_that_do_not_fit_are_refused(plain: nn.Module, images: Tensor, labels: Tensor) -> None:
    for attack in (PGD(), FAB(), TorchAttack("PGD"), lambda network, images, labels, threat, generator=None: images):
        with pytest.raises(UserError, match="attack a does not work in norm spatial"):
            EvaluationProtocol(attacks={"a": attack}, norm="spatial", epsilons=[1.0])
    with pytest.raises(UserError, match="attack a does not work in norm linf"):
        EvaluationProtocol(attacks={"a": SpatialGrid()}, epsilons=[0.1])
    with pytest.raises(UserError, match="attack PGD does not work in norm spatial"):
        PGD()(plain, images, labels, SpatialThreat())
    with pytest.raises(UserError, match="attack SpatialGrid does not work in norm linf"):
        SpatialGrid()(plain, images, labels, ThreatModel())
    with pytest.raises(UserError, match="must be odd"):
        SpatialGrid(rotations=4)
    with pytest.raises(UserError, match="candidates_per_image"):
        SpatialRandom(0)
    with pytest.raises(UserError, match="norm spatial needs bounds"):
        EvaluationProtocol(attacks={"a": SpatialGrid()}, norm="spatial", epsilons=[1.0], bounds=(0.5, 1.0))
    with pytest.raises(UserError, match="norm must be one of linf, l2, l1, spatial"):
        make_threat("l3", 1.0)
