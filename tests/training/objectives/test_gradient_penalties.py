"""Penalties on gradients against closed forms on linear networks and against finite differences."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness import build_network, load_config
from symmetry_robustness.training import CrossEntropy, Objective
from symmetry_robustness.training.objectives import Curvature, GradAlign, InputGradient, Jacobian

from .networks import CLASSES, batch, linear_network, smooth_network


def penalty(objective: Objective, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The term that an objective of weight 1 adds to cross-entropy."""
    return objective(network, images, labels)[0] - CrossEntropy()(network, images, labels)[0]


def gradient_of_linear(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross-entropy, (B, D)."""
    return (network(images).softmax(1) - F.one_hot(labels, CLASSES)) @ network[1].weight


@pytest.mark.parametrize("method", ["double_backward", "finite_difference"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_input_gradient_of_a_linear_network_is_the_closed_form(norm: str, method: str) -> None:
    network, (images, labels) = linear_network(), batch()
    gradient = gradient_of_linear(network, images, labels)
    expected = gradient.abs().sum(1) if norm == "l1" else gradient.square().sum(1) / 2
    found = penalty(InputGradient(1.0, norm, method, step=1e-3), network, images, labels)  # type: ignore[arg-type]
    exact = method == "double_backward"
    torch.testing.assert_close(found, expected.mean(), rtol=1e-5 if exact else 2e-3, atol=1e-5 if exact else 1e-3)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_error_of_finite_differences_is_of_first_order(norm: str) -> None:
    network, (images, labels) = smooth_network().double().eval(), batch()
    images = images.double()
    exact = penalty(InputGradient(1.0, norm, "double_backward"), network, images, labels)  # type: ignore[arg-type]
    errors = [
        float((penalty(InputGradient(1.0, norm, step=step), network, images, labels) - exact).abs().detach())  # type: ignore[arg-type]
        for step in (1e-3, 1e-4)
    ]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_both_methods_train_in_the_same_direction(norm: str) -> None:
    network, (images, labels) = smooth_network().double().eval(), batch()
    found = []
    for objective in (InputGradient(1.0, norm, "double_backward"), InputGradient(1.0, norm, step=1e-5)):  # type: ignore[arg-type]
        loss, _ = objective(network, images.double(), labels)
        found.append(torch.autograd.grad(loss, list(network.parameters())))
    for exact, approximate in zip(*found, strict=True):
        torch.testing.assert_close(approximate, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "objective",
    [InputGradient(1.0, method="double_backward"), Jacobian(1.0, CLASSES), Curvature(1.0)],
    ids=repr,
)
def test_the_gradient_by_the_weights_is_that_of_the_loss(objective: Objective) -> None:
    network, (images, labels) = smooth_network().double().eval(), batch()
    images, weight = images.double(), network[0].weight
    direction = torch.randn_like(weight)
    torch.manual_seed(1)
    (gradient,) = torch.autograd.grad(objective(network, images, labels)[0], weight)
    losses = []
    for step in (1e-5, -1e-5):
        moved = copy.deepcopy(network)
        moved[0].weight.data += step * direction
        torch.manual_seed(1)
        losses.append(objective(moved, images, labels)[0].detach())
    torch.testing.assert_close((losses[0] - losses[1]) / 2e-5, (gradient * direction).sum(), rtol=1e-4, atol=1e-7)


def test_the_jacobian_is_exact_with_all_projections() -> None:
    network, (images, labels) = linear_network(), batch()
    expected = network[1].weight.square().sum() / 2
    torch.testing.assert_close(penalty(Jacobian(1.0, CLASSES), network, images, labels), expected)


def test_the_jacobian_of_an_invariant_network_has_one_norm_on_an_orbit() -> None:
    invariant, plain = (
        build_network(load_config("train", [f"model={name}"])).double().eval()
        for name in ("invariant_4layer", "standard_4layer")
    )
    images, labels = torch.rand(2, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1])
    turned = images.rot90(1, (2, 3))
    exact = Jacobian(1.0, 10)
    found = [penalty(exact, network, x, labels).detach() for network in (invariant, plain) for x in (images, turned)]
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=0.0)
    assert abs(found[3] / found[2] - 1) > 1e-4


@pytest.mark.parametrize("projections", [1, 2])
def test_with_fewer_the_jacobian_is_unbiased(projections: int) -> None:
    network, (images, labels) = linear_network(), batch(4096)
    expected = float(network[1].weight.detach().square().sum() / 2)
    found = penalty(Jacobian(1.0, projections), network, images, labels).detach()
    assert float(found) == pytest.approx(expected, rel=0.03)
    one, other = (penalty(Jacobian(1.0, projections), network, images[:1], labels[:1]) for _ in range(2))
    assert one != other


def test_the_curvature_of_a_linear_network_is_that_of_its_softmax() -> None:
    network, (images, labels) = linear_network(), batch()
    gradient = gradient_of_linear(network, images, labels)
    moved = images + 0.5 * gradient.sign().reshape(images.shape) / math.sqrt(48)
    change = gradient_of_linear(network, moved, labels) - gradient
    torch.testing.assert_close(penalty(Curvature(1.0, step=0.5), network, images, labels), change.norm(dim=1).mean())


def test_a_loss_that_is_linear_in_the_image_has_no_curvature() -> None:
    network, (images, _) = linear_network(), batch()
    with torch.no_grad():  # the softmax is 1 for one class, wrongly, here and nearby
        network[1].bias.copy_(torch.tensor([1000.0, 0.0, 0.0]))
    labels = torch.ones(8, dtype=torch.int64)
    assert gradient_of_linear(network, images, labels).any()
    assert torch.equal(Curvature(1.0)(network, images, labels)[0], CrossEntropy()(network, images, labels)[0])


def test_the_curvature_leaves_running_statistics_to_the_clean_images() -> None:
    network, (images, labels) = smooth_network().train(), batch()
    plain = copy.deepcopy(network)
    Curvature()(network, images, labels)
    plain(images)
    assert all(torch.equal(one, other) for one, other in zip(network.buffers(), plain.buffers(), strict=True))


def test_gradients_of_a_binary_linear_network_are_aligned() -> None:
    network, (images, labels) = linear_network(2), batch()
    attacked = GradAlign(0.1, strength=0.0)(network, images, labels % 2)[0]
    torch.testing.assert_close(GradAlign(0.1, strength=1.0)(network, images, labels % 2)[0], attacked)


def test_gradients_of_more_classes_are_not() -> None:
    network, (images, labels) = linear_network(), batch()
    network[1].weight.data *= 10
    added = (
        GradAlign(0.1, strength=1.0)(network, images, labels)[0]
        - GradAlign(0.1, strength=0.0)(network, images, labels)[0]
    )
    assert 1e-4 < added < 2


def test_the_weight_of_alignment_is_the_source_s() -> None:
    assert GradAlign("8/255").weight == pytest.approx(0.2)
    assert GradAlign("16/255").weight == pytest.approx(2.0)
    assert GradAlign("16/255", strength=0.5).weight == 0.5
