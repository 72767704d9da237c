"""Laws of the transfer attacks: neutral parts change no bit, linear networks fall optimally, images are independent."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.attacks import FGSM, PGD, ThreatModel, TransferPGD
from symmetry_robustness.attacks.base import loss_gradient
from symmetry_robustness.attacks.transfer import gaussian_window, placed, placements, smoothed
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator

PARTS = {
    "ni": {"lookahead": True},
    "si": {"scales": 4},
    "si_ni": {"scales": 3, "lookahead": True},
    "di": {"diversity": 0.7},
    "ti": {"kernel": 3},
    "vmi": {"neighbours": 3},
    "all": {"lookahead": True, "scales": 2, "diversity": 0.5, "kernel": 3, "neighbours": 2},
}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def batch(network: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.rand((6, 3, 10, 10), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return images, network(images).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
@pytest.mark.parametrize("targeted", [False, True])
def test_neutral_parts_are_pgd_bit_for_bit(
    network: nn.Module, batch: tuple[Tensor, Tensor], norm: str, momentum: float, targeted: bool
) -> None:
    settings = {"steps": 7, "relative_step_size": 0.3, "momentum": momentum, "targeted": targeted}
    threat = ThreatModel(norm, 0.1)  # type: ignore[arg-type]
    plain = PGD(**settings)(network, *batch, threat)  # type: ignore[arg-type]
    assert torch.equal(TransferPGD(**settings)(network, *batch, threat), plain)  # type: ignore[arg-type]


def test_each_part_alone_changes_the_result(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    threat = ThreatModel(epsilon=0.1)
    results = [TransferPGD(steps=7, **part)(network, *batch, threat) for part in PARTS.values()]  # type: ignore[arg-type]
    results.append(PGD(steps=7, momentum=1.0)(network, *batch, threat))
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_one_step_without_momentum_is_fgsm(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    threat = ThreatModel(epsilon=0.1)
    moved = TransferPGD(steps=1, relative_step_size=1.0, momentum=0.0)(network, *batch, threat)
    assert torch.equal(moved, FGSM()(network, *batch, threat))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_result_lies_in_ball_and_bounds(network: nn.Module, batch: tuple[Tensor, Tensor], part: str, norm: str) -> None:
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    attacked = TransferPGD(steps=5, **PARTS[part])(network, *batch, threat)  # type: ignore[arg-type]
    assert (threat.excess(attacked, batch[0]) <= 1e-6).all()
    assert not torch.equal(attacked, batch[0])


@pytest.mark.parametrize("part", ["ni", "si", "si_ni", "vmi"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_network_is_attacked_optimally(part: str, norm: str) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    linear[1].weight.data = torch.randn(2, 48, generator=torch.Generator().manual_seed(4))
    images, labels, threat = torch.full((3, 3, 4, 4), 0.5), torch.tensor([0, 1, 0]), ThreatModel(norm, 0.1)  # type: ignore[arg-type]
    attacked = TransferPGD(**PARTS[part])(linear, images, labels, threat)  # type: ignore[arg-type]
    difference = (linear[1].weight[1] - linear[1].weight[0]).detach().double()
    expected = 0.1 * (difference.norm(1) if norm == "linf" else difference.norm(2))
    change = (attacked - images).double().flatten(1) @ difference * torch.tensor([1, -1, 1])
    torch.testing.assert_close(change, expected.expand(3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("part", ["di", "ti"])
def test_views_and_smoothing_attack_a_linear_network_of_one_sign_optimally(part: str) -> None:
    """The mean of pixels, whose gradient keeps its sign when it is smoothed or moved."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(300, 2))
    linear[1].weight.data = torch.rand((2, 300), generator=torch.Generator().manual_seed(4)) * torch.tensor([[1], [-1]])
    images, labels = torch.full((2, 3, 10, 10), 0.5), torch.tensor([0, 1])
    attacked = TransferPGD(**PARTS[part])(linear, images, labels, ThreatModel(epsilon=0.1))  # type: ignore[arg-type]
    expected = images + torch.tensor([-0.1, 0.1])[:, None, None, None]
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_results_depend_neither_on_batch_size_nor_on_order(
    network: nn.Module, batch: tuple[Tensor, Tensor], part: str
) -> None:
    images, labels = batch
    attack, threat = TransferPGD(steps=4, **PARTS[part]), ThreatModel("l2", 0.5)  # type: ignore[arg-type]

    def run(rows: list[int]) -> Tensor:
        return attack(network, images[rows], labels[rows], threat, [keyed_generator(0, row) for row in rows])

    whole = run([*range(6)])
    for rows in ([4], [1, 0, 5], [5, 4, 3, 2, 1, 0]):
        torch.testing.assert_close(run(rows), whole[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [1, 3, 5, 15])
def test_window_sums_to_one_and_is_symmetric(side: int) -> None:
    window = gaussian_window(side, 3.0)
    assert window.sum() == pytest.approx(1, abs=1e-6)
    assert torch.equal(window, window.T)
    assert torch.equal(window, window.flip(0))
    assert (window.diff(dim=0)[: side // 2] > 0).all()


def test_kernel_smooths_the_gradient(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    gradient = loss_gradient(network, images, labels)[1]
    window, expected = gaussian_window(3, 3.0), torch.zeros_like(gradient)
    padded = functional.pad(gradient, (1, 1, 1, 1))
    for y in range(3):
        for x in range(3):
            expected += window[y, x] * padded[:, :, y : y + 10, x : x + 10]
    torch.testing.assert_close(smoothed(gradient, window), expected)
    moved = TransferPGD(steps=1, relative_step_size=0.5, kernel=3, momentum=0.0)(
        network, images, labels, ThreatModel("l2", 1e-3)
    )
    unit = expected / expected.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close((moved - images) / 5e-4, unit, rtol=0, atol=1e-3)


def test_smaller_images_are_torchs_own_resizing_and_padding() -> None:
    images = torch.rand((64, 3, 12, 12), generator=torch.Generator().manual_seed(0))
    draws = torch.rand((64, 4), generator=torch.Generator().manual_seed(1))
    rows, columns = placements(draws, images.shape[2:], 0.6, 0.5)
    seen, sizes = placed(images, rows, columns), set()
    for index, (chance, size, top, left) in enumerate(draws.tolist()):
        part = 6 + int(size * 6)
        expected = images[index : index + 1]
        if chance < 0.6:
            small = functional.interpolate(expected, (part, part), mode="bilinear", align_corners=False)
            above, before = int(top * (12 - part)), int(left * (12 - part))
            expected = functional.pad(small, (before, 12 - part - before, above, 12 - part - above))
            sizes.add(part)
        torch.testing.assert_close(seen[index : index + 1], expected, rtol=0, atol=1e-5)
    assert sizes == set(range(6, 12))


def test_gradients_of_views_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(75, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    images, labels = torch.rand(1, 3, 5, 5), torch.tensor([1])
    attack = TransferPGD(scales=2, diversity=1.0, smallest=0.5, loss="rounded_cross_entropy")

    def mean_loss(at: Tensor) -> Tensor:
        source, losses = keyed_generator(3), []
        for exponent in range(2):
            view = attack._view(at, exponent, source)
            assert view is not None
            losses.append(functional.cross_entropy(smooth(view(at.double())), labels))
        return torch.stack(losses).mean()

    _, gradient = attack._gradient(smooth, images, (labels, None), keyed_generator(3))
    step = torch.zeros_like(images)
    step[0, 1, 2, 3] = 1 / 64
    with torch.no_grad():
        difference = (mean_loss(images + step) - mean_loss(images - step)) / (2 / 64)
    assert float(gradient[0, 1, 2, 3]) == pytest.approx(float(difference), rel=1e-3, abs=1e-6)


def test_variance_is_that_of_the_step_before(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The first step knows no neighbours; later ones follow the mean gradient of those of the step before."""
    threat = ThreatModel(epsilon=0.1)
    one, two = (TransferPGD(steps=n, step_size=0.02, neighbours=4)(network, *batch, threat) for n in (1, 2))
    plain_one, plain_two = (PGD(steps=n, step_size=0.02, momentum=1.0)(network, *batch, threat) for n in (1, 2))
    assert torch.equal(one, plain_one)
    assert not torch.equal(two, plain_two)
    # Neighbours at no distance have the gradient of the image itself.
    close = TransferPGD(steps=2, step_size=0.02, neighbours=4, neighbour_radius=1e-12)(network, *batch, threat)
    torch.testing.assert_close(close, plain_two, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("MIFGSM", {"decay": 0.9}, {"momentum": 0.9}),
        ("NIFGSM", {"decay": 0.9}, {"momentum": 0.9, "lookahead": True}),
        ("SINIFGSM", {"decay": 1.0, "m": 4}, {"momentum": 1.0, "lookahead": True, "scales": 4}),
        # On 10 pixels 0.9 leaves 9 as the only smaller side and the corner as the only place.
        ("DIFGSM", {"decay": 1.0, "diversity_prob": 1.0}, {"momentum": 1.0, "diversity": 1.0}),
        ("DIFGSM", {"decay": 0.0, "diversity_prob": 1.0}, {"momentum": 0.0, "diversity": 1.0}),
        ("TIFGSM", {"decay": 1.0, "diversity_prob": 0.0, "len_kernel": 5}, {"momentum": 1.0, "kernel": 5}),
        ("VMIFGSM", {"decay": 1.0, "N": 3, "beta": 1e-12}, {"neighbours": 3, "neighbour_radius": 1e-12}),
    ],
)
def test_deterministic_parts_equal_torchattacks(
    network: nn.Module, batch: tuple[Tensor, Tensor], name: str, theirs: dict[str, object], ours: dict[str, object]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("torchattacks")
    attack = getattr(library, name)(network, eps=0.1, alpha=0.02, steps=10, **theirs)
    attack.set_device(torch.device("cpu"))
    own = TransferPGD(steps=10, step_size=0.02, loss="rounded_cross_entropy", **ours)  # type: ignore[arg-type]
    moved, expected = own(network, *batch, ThreatModel(epsilon=0.1)), attack(*batch)
    assert not torch.equal(moved, batch[0])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


def test_variance_tuning_agrees_with_torchattacks_in_the_mean(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Their draws are others; with many neighbours both follow nearly the same gradient."""
    library = pytest.importorskip("torchattacks")
    attack = library.VMIFGSM(network, eps=0.1, alpha=0.02, steps=3, decay=1.0, N=400, beta=1.5)
    attack.set_device(torch.device("cpu"))
    own = TransferPGD(steps=3, step_size=0.02, neighbours=400, loss="rounded_cross_entropy")
    moved = own(network, *batch, ThreatModel(epsilon=0.1))
    plain = PGD(steps=3, step_size=0.02, momentum=1.0)(network, *batch, ThreatModel(epsilon=0.1))
    with torch.random.fork_rng():
        expected = attack(*batch)
    assert (moved != expected).float().mean() < 0.5 * (plain != expected).float().mean()


def test_network_and_random_state_stay_untouched(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    with torch.no_grad():
        TransferPGD(steps=2, **PARTS["all"])(network, *batch, ThreatModel())  # type: ignore[arg-type]
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"kernel": 4},
        {"kernel": 0},
        {"scales": 0},
        {"neighbours": -1},
        {"neighbour_radius": 0.0},
        {"diversity": 1.5},
        {"smallest": 1.0},
        {"kernel_deviations": -1.0},
        {"lookahead": True, "momentum": 0.0},
        {"loss": "crossentropy"},
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        TransferPGD(**settings)  # type: ignore[arg-type]
