"""AWP: lengths, directions and gradients at the moved weights; the weights themselves stay."""

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.training import CrossEntropy, Objective
from symmetry_robustness.training.objectives import (
    TRADES,
    AdversarialWeightPerturbation,
    FreeTraining,
    InputGradient,
    Jacobian,
    OrbitConsistency,
    PGDTraining,
)
from symmetry_robustness.training.objectives.weights import replaced

from .networks import batch, linear_network, smooth_network

GAMMA = 0.05


def offsets(network: nn.Module, images: Tensor, labels: Tensor, gamma: float = GAMMA) -> dict[nn.Parameter, Tensor]:
    loss = F.cross_entropy(network(images), labels)
    return AdversarialWeightPerturbation(CrossEntropy(), gamma).offsets(network, loss, len(images))


def test_each_weight_moves_along_its_gradient_by_gamma_times_its_length() -> None:
    network, (images, labels) = smooth_network(), batch()
    found = offsets(network, images, labels)
    assert set(found) == {network[0].weight, network[5].weight}  # neither biases nor the norm
    F.cross_entropy(network(images), labels).backward()
    for parameter, offset in found.items():
        torch.testing.assert_close(offset.norm(), GAMMA * parameter.detach().norm(), rtol=1e-6, atol=0)
        assert parameter.grad is not None
        cosine = (offset * parameter.grad).sum() / offset.norm() / parameter.grad.norm()
        torch.testing.assert_close(cosine, torch.ones(()), rtol=1e-5, atol=0)


def test_a_weight_without_gradient_stays() -> None:
    network, (images, labels) = linear_network(), batch()
    images = torch.zeros_like(images)
    assert not offsets(network, images, labels)[network[1].weight].any()


def test_a_layer_that_is_rescaled_moves_in_proportion() -> None:
    network, (images, labels) = smooth_network(), batch()
    with torch.no_grad():
        network[0].bias.zero_()
        network[1].eps = 1e-12  # so that the norm undoes any scale
        larger = copy.deepcopy(network)
        larger[0].weight *= 8
    ours, theirs = (offsets(each, images, labels) for each in (network, larger))
    torch.testing.assert_close(8 * ours[network[0].weight], theirs[larger[0].weight], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours[network[5].weight], theirs[larger[5].weight], rtol=1e-4, atol=1e-6)


def test_stored_coefficients_of_a_group_convolution_move_and_the_network_stays_invariant() -> None:
    layer = RotationConv("C4", 3, 2, in_representation="trivial")
    network = nn.Sequential(layer, nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (4, 2)), Mean())
    images, labels = torch.rand(8, 3, 8, 8), torch.randint(2, (8,))
    moved = offsets(network, images, labels)
    assert set(moved) == {layer.weight}
    torch.testing.assert_close(moved[layer.weight].norm(), GAMMA * layer.weight.detach().norm(), rtol=1e-6, atol=0)
    before = network(images)
    with replaced(network, {layer.weight: layer.weight + moved[layer.weight]}):
        after = network(images)
        torch.testing.assert_close(network(torch.rot90(images, 1, (2, 3))), after)
    assert F.cross_entropy(after, labels) > F.cross_entropy(before, labels)


class Mean(nn.Module):
    """Means over the components of fields, which quarter turns permute."""

    def forward(self, fields: Tensor) -> Tensor:
        return fields.mean(1)


def gradients(objective: Objective, network: nn.Module) -> list[Tensor]:
    network = copy.deepcopy(network).train()
    torch.manual_seed(0)
    loss, logits = objective(network, *batch())
    loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad for p in network.parameters() if p.grad is not None]
    return [loss.detach(), logits.detach(), *found, *network.buffers(), torch.get_rng_state()]


INNER: list[Objective] = [
    CrossEntropy(),
    PGDTraining(steps=2),
    TRADES(steps=2),
    OrbitConsistency(),
    Jacobian(),
    InputGradient(method="double_backward"),
]


def unmoved(objective: Objective, **settings: float) -> AdversarialWeightPerturbation:
    found = AdversarialWeightPerturbation(objective, **settings)  # type: ignore[arg-type]
    found.set_epoch(9)
    return found


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_without_length_or_before_its_epoch_it_is_the_objective_within_bit_for_bit(inner: Objective) -> None:
    network = smooth_network()
    expected = gradients(inner, network)
    for objective in (unmoved(inner, gamma=0.0), unmoved(inner, gamma=0.1, start_epoch=10)):
        found = gradients(objective, network)
        assert len(found) == len(expected)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    moved = gradients(unmoved(inner, gamma=0.1, start_epoch=9), network)
    assert not torch.equal(moved[0], expected[0])
    assert torch.equal(moved[-1], expected[-1])  # it draws as often


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_the_gradient_is_that_at_the_moved_weights_which_are_gone_afterwards(inner: Objective) -> None:
    network, (images, labels) = smooth_network().eval(), batch()  # so that attacks meet equal statistics
    before = [p.detach().clone() for p in network.parameters()]
    by_hand = copy.deepcopy(network)
    objective = AdversarialWeightPerturbation(inner, GAMMA)
    torch.manual_seed(0)
    loss, _ = objective(network, images, labels)
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))
    assert all(type(p) is nn.Parameter for p in network.parameters())

    def inner_loss() -> Tensor:
        if attacked is None:
            torch.manual_seed(0)
            return inner(by_hand, images, labels)[0]
        return inner.loss(by_hand, images, attacked, labels)[0]  # type: ignore[attr-defined]

    torch.manual_seed(0)
    attacked = inner.attacked(by_hand, images, labels) if hasattr(inner, "attacked") else None
    inner_loss().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in by_hand.parameters():
            if parameter.ndim > 1:
                assert parameter.grad is not None
                parameter += GAMMA * parameter.norm() * parameter.grad / parameter.grad.norm()
    by_hand.zero_grad()
    inner_loss().backward()  # type: ignore[no-untyped-call]
    for found, expected in zip(network.parameters(), by_hand.parameters(), strict=True):
        if found.grad is None or expected.grad is None:
            assert found.grad is expected.grad is None
        else:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_images_are_attacked_once_and_statistics_see_them_once() -> None:
    network, (images, labels) = smooth_network().train(), batch()
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    AdversarialWeightPerturbation(PGDTraining(0.1, steps=2))(network, images, labels)
    assert len(seen) == 4
    assert torch.equal(seen[2], seen[3])
    assert network[1].num_batches_tracked == 1


def test_networks_compute_as_before_after_an_error_at_other_weights() -> None:
    network, (images, _) = linear_network(), batch()
    expected, weight = network(images), network[1].weight
    with contextlib.suppress(ZeroDivisionError), replaced(network, {weight: 2 * weight}):
        assert not torch.equal(network(images), expected)
        raise ZeroDivisionError
    assert network[1].weight is weight
    assert torch.equal(network(images), expected)


def test_state_and_epoch_reach_the_objective_within() -> None:
    class Stateful:
        state: object = None

        def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

        def set_epoch(self, epoch: int) -> None:
            self.state = epoch

        def state_dict(self) -> dict[str, object]:
            return {"state": self.state}

        def load_state_dict(self, state: dict[str, object]) -> None:
            self.state = state["state"]

    one, other = (AdversarialWeightPerturbation(AdversarialWeightPerturbation(Stateful())) for _ in range(2))
    one.set_epoch(3)
    other.load_state_dict(one.state_dict())
    assert other.around.around.state == 3  # type: ignore[attr-defined]


def test_an_objective_that_updates_weights_itself_is_refused() -> None:
    with pytest.raises(UserError, match="cannot stand around FreeTraining"):
        AdversarialWeightPerturbation(FreeTraining())


class Module(nn.Module):
    """An objective whose state would be on no device and in no checkpoint."""

    def forward(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(images)
        return F.cross_entropy(logits, labels), logits


@pytest.mark.parametrize(("around", "reason"), [(Module(), "which is a module"), (None, "needs an objective")])
def test_modules_and_what_is_no_objective_are_refused(around: Objective, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        AdversarialWeightPerturbation(around)
