import numpy as np
import pytest
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import MeasureInputs, MinimalDistance, evaluate_robustness
from symmetry_robustness.robustness.measures.minimal_distance import shorten
from symmetry_robustness.robustness.protocol import EvaluationProtocol


def inputs(network: nn.Module, images: Tensor, labels: Tensor) -> MeasureInputs:
    return MeasureInputs(network, images, labels, np.arange(len(images)), batch_size=7)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_distance_of_a_linear_network_is_its_margin_over_the_dual_norm(two_classes, norm: str, dual: float) -> None:
    labels = two_classes.labels.clone()
    labels[:3] = 1 - labels[:3]
    margin = two_classes.distances(dual)
    measure = MinimalDistance(norm, smallest=float(margin.min()) / 2, largest=float(margin.max()) * 2, radii=9)  # type: ignore[arg-type]
    found = measure.compute(inputs(two_classes.network, two_classes.images, labels))
    assert (found["distance"][:3] == 0).all()
    # The gradient points straight at the border, so that bisection finds it to a part of 2^8.
    ratio = found["distance"][3:] / margin[3:]
    assert (ratio > 1 - 1e-4).all()
    assert (ratio < 1 + 1 / 64).all()
    assert not found["saturated"].any()


def test_what_withstands_the_largest_radius_has_it_as_its_distance(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    found = MinimalDistance(smallest=1e-5, largest=0.01, radii=4).compute(inputs(network, images, labels))
    saturated, wrong = found["saturated"], (network(images).argmax(1) != labels).numpy()
    assert 0 < saturated.sum() < len(images)
    np.testing.assert_allclose(found["distance"][saturated], 0.01)
    assert (found["distance"][~saturated] < 0.01).all()
    np.testing.assert_array_equal(found["distance"] == 0, wrong)


def test_the_mean_is_the_area_under_the_curve(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    measure = MinimalDistance(smallest=0.001, largest=0.04, radii=9)
    protocol = EvaluationProtocol(epsilons=(), measures={"linf": measure})
    report = evaluate_robustness(network, images, labels, protocol)
    grid = np.linspace(0, 0.04, 20001)
    distance = report.measures["linf"]["distance"]
    accuracy = (distance[None, :] > grid[:, None]).mean(1)
    assert report.measured("linf", "distance").value == pytest.approx(0.04 * accuracy.mean(), rel=1e-3)


def test_shortened_images_stay_misclassified_and_come_no_further(network: nn.Module, images: Tensor) -> None:
    labels = network(images).argmax(1)
    other = images.flip(0)
    rows = network(other).argmax(1) != labels
    near = shorten(network, images[rows], labels[rows], other[rows])
    assert (network(near).argmax(1) != labels[rows]).all()
    before, after = ((found - images[rows]).flatten(1).norm(dim=1) for found in (other[rows], near))
    assert (after < before).all()


def test_radii_must_grow() -> None:
    with pytest.raises(UserError, match="radii must grow from smallest to largest, got 9 from 1 to"):
        MinimalDistance(smallest=1, largest=0.5)
    assert MinimalDistance(smallest="1/255", largest="4/255", radii=3).grid == pytest.approx(
        (1 / 255, 2 / 255, 4 / 255)
    )
