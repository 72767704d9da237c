"""Certified radii: exact on linear networks, never beyond an attack, and the same however images are batched."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.bounds.relaxation import Method
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import CertifiedRadius, MeasureInputs, MinimalDistance

from ...bounds.networks import MADE, make, pictures
from ..trained import convolutional, shapes, train

METHODS: tuple[Method, ...] = get_args(Method)


def inputs(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 7) -> MeasureInputs:
    return MeasureInputs(network, images, labels, np.arange(len(images)), batch_size=batch_size)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_radius_of_a_linear_network_is_its_margin_over_the_dual_norm(two_classes, norm, dual, method) -> None:
    labels = two_classes.labels.clone()
    labels[:3] = 1 - labels[:3]
    found = CertifiedRadius(norm, method, clip=False).compute(inputs(two_classes.network, two_classes.images, labels))
    assert (found["radius"][:3] == 0).all()
    np.testing.assert_allclose(found["radius"][3:], two_classes.distances(dual)[3:], rtol=0, atol=1e-5)
    assert set(found["method"]) == {method}


def test_pixel_bounds_prove_more_where_they_cut_the_ball(linear: nn.Module) -> None:
    images = torch.rand((20, 3, 4, 4), generator=torch.Generator().manual_seed(0)).round()
    labels = linear(images).argmax(1)
    inside, everywhere = (
        CertifiedRadius(clip=clip).compute(inputs(linear, images, labels))["radius"] for clip in (True, False)
    )
    assert (inside > 1.3 * everywhere).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", MADE)
def test_crown_proves_at_least_what_intervals_prove(name: str, norm) -> None:
    network, images = make(name), pictures(3)
    given = inputs(network, images, network(images).argmax(1))
    interval, mixed, crown = (CertifiedRadius(norm, method).compute(given) for method in METHODS)
    for better in (mixed, crown):
        assert (better["radius"] >= interval["radius"]).all()
        np.testing.assert_allclose(better["interval"], interval["radius"])
    assert (crown["radius"] >= mixed["radius"]).all()
    assert crown["radius"].mean() > 1.5 * interval["radius"].mean() > 0


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return train(convolutional(), 2).requires_grad_(False)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [*MADE, "trained"])
def test_no_attack_succeeds_inside_a_certified_radius(name: str, norm, trained: nn.Module) -> None:
    network, images = (trained, shapes(10, 3)[0]) if name == "trained" else (make(name), pictures(10))
    labels = network(images).argmax(1)
    method: Method = "crown_ibp" if name == "trained" else "crown"
    radius = CertifiedRadius(norm, method).compute(inputs(network, images, labels))["radius"]
    assert (radius > 0).all()
    ends = {"linf": (1e-3, 1.0), "l2": (1e-2, 10.0)}[norm]
    attack = MinimalDistance(norm, *ends, radii=15, steps=5).compute(inputs(network, images, labels))
    assert ((radius <= attack["distance"]) | attack["saturated"]).all()
    assert name == "residual" or not attack["saturated"].all()  # whose logits hardly depend on the image
    for share in (0.9, 1.0):
        for row, epsilon in enumerate(share * radius):
            threat = ThreatModel(norm, float(epsilon))
            one = slice(row, row + 1)
            attacked = PGD(steps=5, random_start=True)(network, images[one], labels[one], threat, torch.Generator())
            assert network(attacked).argmax(1) == labels[row]


def test_an_image_has_its_radius_whatever_lies_beside_it() -> None:
    network, images = make("convolutional"), pictures(6)
    labels = network(images).argmax(1)
    labels[2] = (labels[2] + 1) % 5
    found = [CertifiedRadius(batch_size=size).compute(inputs(network, images, labels)) for size in (1, 4, 6)]
    for other in found[1:]:
        np.testing.assert_allclose(other["radius"], found[0]["radius"], rtol=1e-6)
    np.testing.assert_array_equal(found[0]["radius"] == 0, np.arange(6) == 2)


def test_auto_goes_by_the_size_of_the_network(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    given = inputs(network, images[:3], labels[:3])
    assert set(CertifiedRadius().compute(given)["method"]) == {"crown"}
    larger = nn.Sequential(*(nn.Conv2d(3, 80, 3, padding=1), nn.ReLU(), nn.Conv2d(80, 80, 3, padding=1), nn.ReLU()))
    larger = nn.Sequential(larger, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    given = inputs(larger, images[:1], larger(images[:1]).argmax(1))
    assert set(CertifiedRadius().compute(given)["method"]) == {"crown_ibp"}


def test_what_is_proven_everywhere_has_the_largest_radius() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.tensor([0.0, 1.0])
    images, labels = torch.rand(4, 3, 4, 4), torch.tensor([1, 1, 0, 1])
    found = CertifiedRadius(largest=0.7).compute(inputs(network, images, labels))
    np.testing.assert_allclose(found["radius"], [0.7, 0.7, 0, 0.7])
    np.testing.assert_array_equal(found["saturated"], [True, True, False, True])


def test_nothing_of_no_images(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    assert CertifiedRadius().compute(inputs(network, images[:0], labels[:0]))["radius"].shape == (0,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "certified norm must be one of linf, l2, got 'l1'"),
        ({"method": "ibp"}, "certified method must be one of auto, interval"),
        ({"largest": 0}, "certified largest must be above"),
        ({"tolerance": 0}, "certified tolerance must lie in"),
        ({"batch_size": 0}, "certified batch_size must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CertifiedRadius(**settings)  # type: ignore[arg-type]
