import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import Clever
from symmetry_robustness.robustness.measures.weibull import fit_reverse_weibull

DUAL = {"l1": float("inf"), "l2": 2.0, "linf": 1.0}
SMALL = {"num_batches": 20, "samples_per_batch": 40}


def reference_location(maxima: NDArray[np.float64]) -> float:
    """Upper end by scipy: rescale, fit from several shapes with a penalty on shape², take the best p-value."""
    shift, spread = maxima.max(), maxima.max() - maxima.min()
    fits = []
    for start in (0.1, 1, 5, 10, 20, 50, 100):

        def minimise(function, first, args, disp):  # type: ignore[no-untyped-def]
            def penalised(theta, *rest):  # type: ignore[no-untyped-def]
                return function(theta, *rest) + 0.01 * theta[0] ** 2

            return scipy.optimize.fmin(penalised, first, args=args, disp=0, maxiter=2000, maxfun=4000)

        shape, location, scale = scipy.stats.weibull_max.fit((maxima - shift) / spread, start, optimizer=minimise)
        p_value = scipy.stats.kstest((maxima - shift) / spread, "weibull_max", args=(shape, location, scale)).pvalue
        fits.append((p_value, shift + location * spread))
    best = max(fits)
    return float(best[1]) if best[0] >= 0.001 else float(shift)


def reference_score(network: nn.Module, image: Tensor, target: int, settings: Clever) -> float:
    """CLEVER towards one target, point by point, with its own random numbers."""
    generator = np.random.default_rng(7)
    logits = network(image[None])[0].detach()
    predicted = int(logits.argmax())
    maxima = []
    for _ in range(settings.num_batches):
        norms = []
        for _ in range(settings.samples_per_batch):
            direction = generator.normal(size=image.numel())
            length = settings.radius * generator.uniform() ** (1 / image.numel())
            step = torch.tensor(direction / np.linalg.norm(direction) * length, dtype=torch.float32)
            point = (image + step.reshape(image.shape)).clamp(0, 1).requires_grad_()
            output = network(point[None])[0]
            (gradient,) = torch.autograd.grad(output[predicted] - output[target], point)
            norms.append(float(gradient.norm()))
        maxima.append(max(norms))
    margin = float(logits[predicted] - logits[target])
    return min(margin / reference_location(np.array(maxima)), settings.radius)


@pytest.mark.parametrize("norm", DUAL)
@pytest.mark.parametrize("clip", [True, False])
def test_linear_network_has_the_exact_score(linear: nn.Module, norm: str, clip: bool) -> None:
    images = torch.rand((5, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    scores = Clever(norm, radius=1e6, clip=clip, **SMALL)(linear, images)  # type: ignore[arg-type]
    weight, logits = linear[1].weight.double(), linear(images).double()
    for row, predicted in enumerate(logits.argmax(1)):
        others = [j for j in range(4) if j != predicted]
        assert scores.targets[row].tolist() == others
        for column, target in enumerate(others):
            exact = (logits[row, predicted] - logits[row, target]) / (weight[predicted] - weight[target]).norm(
                DUAL[norm]
            )
            assert scores.per_target[row, column].item() == pytest.approx(exact.item(), rel=1e-5)
    torch.testing.assert_close(scores.value, scores.per_target.min(1).values)
    assert scores.degenerate.all()
    assert not scores.saturated.any()


def test_maximum_is_a_plain_estimate(network: nn.Module, images: Tensor) -> None:
    settings = {"num_batches": 5, "samples_per_batch": 20, "radius": 0.5}
    plain = Clever(**settings, estimate="maximum")(network, images[:3])  # type: ignore[arg-type]
    fitted = Clever(**settings)(network, images[:3])  # type: ignore[arg-type]
    assert (plain.lipschitz <= fitted.lipschitz).all()
    torch.testing.assert_close(plain.value, fitted.value, rtol=0.5, atol=0)


def test_score_is_capped_at_the_radius(linear: nn.Module) -> None:
    images = torch.rand((2, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    scores = Clever(radius=1e-4, **SMALL)(linear, images)
    assert (scores.value == 1e-4).all()
    assert scores.saturated.all()


def test_constant_network_cannot_be_changed() -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    constant[1].weight.data.zero_()
    scores = Clever(radius=2.0, num_batches=3, samples_per_batch=2)(constant, torch.rand(2, 3, 2, 2))
    assert scores.value.tolist() == [2.0, 2.0]


def test_score_agrees_with_a_reference_implementation(network: nn.Module, images: Tensor) -> None:
    settings = Clever(radius=0.5, num_batches=40, samples_per_batch=20, targets=1)
    scores = settings(network, images[:2])
    for row in range(2):
        expected = reference_score(network, images[row], int(scores.targets[row, 0]), settings)
        assert scores.value[row].item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("shape", [1.5, 3.0, 8.0])
def test_fit_equals_the_original_procedure(shape: float) -> None:
    maxima = 10 - 2 * np.random.default_rng(3).weibull(shape, (3, 300))
    fit = fit_reverse_weibull(maxima)
    for row in range(3):
        assert fit.location[row] == pytest.approx(reference_location(maxima[row]), rel=2e-3)
        assert fit.location[row] >= maxima[row].max()
    assert (fit.p_value > 0.001).all()
    assert not fit.fallback.any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("linf", np.inf)])
def test_score_agrees_with_art(norm: str, order: float) -> None:
    metrics = pytest.importorskip("art.metrics")
    estimators = pytest.importorskip("art.estimators.classification")
    trained, images = trained_network()
    classifier = estimators.PyTorchClassifier(
        trained, nn.CrossEntropyLoss(), (3, 8, 8), 3, clip_values=(0, 1), device_type="cpu"
    )
    # ART draws its maxima again and again from one pool, and its single fit then ends at the largest of them.
    settings = Clever(norm, radius=0.5, num_batches=20, samples_per_batch=32, estimate="maximum")  # type: ignore[arg-type]
    scores = settings(trained, images[:4])
    ratios = []
    for row in range(4):
        for target, ours in zip(scores.targets[row].tolist(), scores.per_target[row].tolist(), strict=True):
            image = images[row].numpy()
            theirs = metrics.clever_t(classifier, image, target, 20, 32, 0.5, order, pool_factor=20)
            ratios.append(ours / theirs)
    # Its fit now and then diverges by a factor of ten, hence the median.
    assert np.median(ratios) == pytest.approx(1, abs=0.05)
    assert np.mean(np.abs(np.log(ratios)) < 0.1) >= 0.7


def trained_network() -> tuple[nn.Module, Tensor]:
    """A small network that tells bright red, green and blue images apart, and images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (256,), generator=generator)
    images = 0.6 * torch.rand((256, 3, 8, 8), generator=generator)
    images[torch.arange(256), labels] += 0.15
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 3)]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.requires_grad_(False)
    return network.eval(), images


def test_fit_that_does_not_hold_gives_way_to_the_largest_maximum() -> None:
    generator = np.random.default_rng(0)
    maxima = np.concatenate([generator.normal(5, 0.01, 250), generator.normal(7, 0.01, 250)])[None]
    fit = fit_reverse_weibull(maxima)
    assert fit.fallback.all()
    assert fit.location[0] == maxima.max()


def test_single_maximum_is_its_own_fit() -> None:
    fit = fit_reverse_weibull(np.array([[2.0], [0.0]]))
    assert fit.location.tolist() == [2.0, 0.0]
    assert fit.degenerate.all()


def test_scores_depend_neither_on_batch_size_nor_on_other_images(network: nn.Module, images: Tensor) -> None:
    settings = {"num_batches": 6, "samples_per_batch": 33, "radius": 0.3}
    whole = Clever(**settings, batch_size=128)(network, images[:4])  # type: ignore[arg-type]
    parts = [
        Clever(**settings, batch_size=50)(network, images[rows], indices=rows)  # type: ignore[arg-type]
        for rows in ([1, 3], [0, 2])
    ]
    joined = torch.cat([part.per_target for part in parts])[[2, 0, 3, 1]]
    torch.testing.assert_close(whole.per_target, joined, rtol=1e-4, atol=0)
    assert not torch.equal(whole.value, Clever(**settings, seed=1)(network, images[:4]).value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("all", [1, 2, 3]), (2, [3, 1]), ("top-2", [3, 1]), ("top-9", [3, 1, 2]), ("least_likely", [2])],
)
def test_targets_are_chosen(targets: str | int, expected: list[int]) -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([5.0, 2.0, 1.0, 3.0]) + 0 * images.sum((1, 2, 3))[:, None]

    scores = Clever(num_batches=1, samples_per_batch=1, targets=targets)(Fixed(), torch.rand(2, 3, 2, 2))
    assert scores.targets.tolist() == [expected, expected]
    assert scores.predicted.tolist() == [0, 0]


def test_random_target_is_wrong_and_belongs_to_the_image(network: nn.Module, images: Tensor) -> None:
    settings = Clever(num_batches=1, samples_per_batch=1, targets="random")
    scores = settings(network, images)
    assert (scores.targets[:, 0] != scores.predicted).all()
    assert len(scores.targets.unique()) > 1
    assert torch.equal(settings(network, images[3:4], indices=[3]).targets, scores.targets[3:4])


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("linf", float("inf"))])
def test_points_are_uniform_in_the_ball(norm: str, order: float) -> None:
    points = NORMS[norm].sample((4000, 2, 1, 1), torch.Generator().manual_seed(0), "cpu").flatten(1)
    length = points.norm(order, dim=1)
    assert length.max() <= 1 + 1e-6
    assert abs((length <= 0.5).float().mean().item() - 0.25) < 0.03
    assert points.mean(0).abs().max() < 0.03


def test_network_and_random_state_stay_untouched(network: nn.Module, images: Tensor) -> None:
    state = torch.random.get_rng_state()
    Clever(num_batches=2, samples_per_batch=3)(network, images[:2])
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_progress_counts_images(network: nn.Module, images: Tensor) -> None:
    seen: list[int] = []
    Clever(num_batches=2, samples_per_batch=100)(network, images[:3], progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 3


def test_no_images_have_no_scores(network: nn.Module, images: Tensor) -> None:
    assert Clever()(network, images[:0]).value.shape == (0,)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "l3"},
        {"estimate": "mean"},
        {"radius": 0.0},
        {"num_batches": 0},
        {"targets": "some"},
        {"targets": 0},
        {"targets": "top-0"},
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Clever(**settings)  # type: ignore[arg-type]


def test_non_finite_logits_are_refused(images: Tensor) -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    broken[1].bias.data.fill_(float("inf"))
    with pytest.raises(UserError, match="non-finite logits"):
        Clever()(broken, images)


def test_passes_go_through_the_fused_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    for batches in (2, 50):
        Clever(num_batches=batches, samples_per_batch=8)(network, torch.rand(2, 3, 8, 8))
    assert sum(calls) == 2 * 2  # both were held against the network once, on the images themselves
