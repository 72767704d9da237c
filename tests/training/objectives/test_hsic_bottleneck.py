"""The normalised HSIC against its bounds, invariances and its form in the source."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.features import default_layers, read_features
from symmetry_robustness.training import CrossEntropy
from symmetry_robustness.training.objectives import HSICBottleneck
from symmetry_robustness.training.objectives.hsic_bottleneck import (
    dependence,
    gaussian_kernel,
    label_kernel,
    normalised,
)

from .networks import CLASSES, batch, smooth_network


def of_values(values: Tensor, bandwidth: float = 5.0) -> Tensor:
    return normalised(gaussian_kernel(values, bandwidth))


def as_in_the_source(first: Tensor, second: Tensor) -> Tensor:
    """With kernels centred on one side and an explicit inverse."""
    count = len(first)
    centring = torch.eye(count, dtype=torch.float64) - 1 / count
    found = [kernel @ centring for kernel in (first, second)]
    found = [kernel @ torch.linalg.inv(kernel + 1e-5 * count * torch.eye(count)) for kernel in found]
    return (found[0] * found[1].T).sum()


def test_the_kernel_is_the_gaussian_of_the_distance() -> None:
    values = torch.randn(6, 2, 3, dtype=torch.float64)
    distance = torch.cdist(values.flatten(1), values.flatten(1))
    torch.testing.assert_close(gaussian_kernel(values, 5.0), torch.exp(-distance.square() / (2 * 25 * 6)))


def test_it_is_the_source_s_form() -> None:
    first, second = (gaussian_kernel(torch.randn(16, 5), 1.0) for _ in range(2))
    torch.testing.assert_close(dependence(normalised(first), normalised(second)), as_in_the_source(first, second))


def test_a_constant_depends_on_nothing() -> None:
    images = torch.rand(16, 12)
    assert float(dependence(of_values(images), of_values(torch.ones(16, 4)))) == pytest.approx(0, abs=1e-9)


def test_the_order_of_the_images_does_not_matter() -> None:
    first, second, order = torch.randn(32, 20), torch.randn(32, 7), torch.randperm(32)
    found = dependence(of_values(first), of_values(second))
    torch.testing.assert_close(dependence(of_values(first[order]), of_values(second[order])), found)
    assert abs(float(dependence(of_values(first[order]), of_values(second)) - found)) > 1e-3


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_with_labels_it_is_at_most_the_classes_less_one(classes: int) -> None:
    labels = torch.arange(200) % classes
    features = 3 * torch.eye(classes)[labels]  # as dependent as can be
    label = normalised(label_kernel(labels, classes))
    found = float(dependence(of_values(features, 0.1), label))
    assert 0.95 * (classes - 1) < found <= classes - 1
    noise = float(dependence(of_values(torch.randn(200, 5)), label))
    assert 0 <= noise < classes - 1


def test_it_is_at_most_the_images_less_one() -> None:
    values = torch.randn(32, 40)
    own = float(dependence(of_values(values, 1.0), of_values(values, 1.0)))
    assert 30 < own <= 31


def test_independent_variables_depend_less_than_equal_ones() -> None:
    first, second = torch.randn(128, 3), torch.randn(128, 3)
    assert dependence(of_values(first), of_values(second)) < dependence(of_values(first), of_values(first)) / 2


def test_the_loss_is_the_cross_entropy_with_the_terms_of_every_layer() -> None:
    network, (images, labels) = smooth_network().eval(), batch(16)
    objective = HSICBottleneck(image_strength=0.3, label_strength=0.7)
    loss, logits = objective(network, images, labels)
    _, features = read_features(network, images, default_layers(network))
    assert list(features) == ["0", "5:input"]
    expected, label = CrossEntropy()(network, images, labels)[0].double(), label_kernel(labels, CLASSES)
    for feature in features.values():
        kernel = gaussian_kernel(feature, 5.0)
        expected = expected + 0.3 * as_in_the_source(gaussian_kernel(images, 5.0), kernel)
        expected = expected - 0.7 * as_in_the_source(kernel, label)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits, network(images))


def test_layers_can_be_chosen_and_add_up() -> None:
    network, (images, labels) = smooth_network().eval(), batch()
    plain = CrossEntropy()(network, images, labels)[0]
    both, *single = (
        HSICBottleneck(layers=layers)(network, images, labels)[0] - plain  # type: ignore[arg-type]
        for layers in (["0", "5:input"], ["0"], ["5:input"])
    )
    torch.testing.assert_close(both, single[0] + single[1])


def test_under_attack_the_terms_are_those_of_clean_images() -> None:
    network, (images, labels) = smooth_network().eval(), batch()
    torch.manual_seed(0)
    attacked = HSICBottleneck(0.1, image_strength=0.0, label_strength=0.0)(network, images, labels)[0]
    torch.manual_seed(0)
    found = HSICBottleneck(0.1)(network, images, labels)[0]
    term = HSICBottleneck()(network, images, labels)[0] - CrossEntropy()(network, images, labels)[0]
    torch.testing.assert_close(found - attacked, term)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_that_hardly_differ_have_finite_gradients(dtype: torch.dtype) -> None:
    values = (1000 + 1e-3 * torch.randn(64, 10)).to(dtype).requires_grad_()
    dependence(of_values(values), of_values(torch.randn(64, 3))).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_one_image_has_no_dependence() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES))
    images, labels = batch(1)
    assert torch.equal(HSICBottleneck()(network, images, labels)[0], CrossEntropy()(network, images, labels)[0])


def test_no_layers_are_refused() -> None:
    with pytest.raises(UserError, match="layers must not be empty"):
        HSICBottleneck(layers=())
