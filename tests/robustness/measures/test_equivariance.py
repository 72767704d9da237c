import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EquivarianceError, MeasureInputs
from symmetry_robustness.robustness.measures.equivariance import relative_error


class LiftingConv(nn.Conv2d):
    """One kernel in four turns, (B, 3, H, W) to (B, 4, H, W): a regular field of C4."""

    def __init__(self, *, tells: bool = True) -> None:
        super().__init__(3, 4, 3, padding=1)
        kernel = torch.randn((3, 3, 3), generator=torch.Generator().manual_seed(4))
        self.weight.data = torch.stack([torch.rot90(kernel, turns, (1, 2)) for turns in range(4)])
        self.bias.data = torch.full((4,), 0.1)
        if tells:
            self.permute_fields = _shift


def _shift(features: Tensor, angle: float, scale: float) -> Tensor | None:
    return None if scale != 1 or angle % 90 else features.roll(round(angle / 90), dims=1)


class OrbitPool(nn.Module):
    """The largest and the mean response of the field, which no quarter turn changes."""

    def forward(self, features: Tensor) -> Tensor:
        values = features.relu().flatten(1)
        return torch.stack([values.amax(1), values.mean(1), values.square().mean(1)], dim=1)


def invariant(*, tells: bool = True) -> nn.Module:
    head = nn.Linear(3, 5)
    head.weight.data = 20 * torch.randn((5, 3), generator=torch.Generator().manual_seed(5))
    head.bias.data.zero_()
    return nn.Sequential(LiftingConv(tells=tells), OrbitPool(), head).eval()


@pytest.fixture(scope="module")
def square() -> Tensor:
    return torch.rand((20, 3, 16, 16), generator=torch.Generator().manual_seed(6))


def inputs(network: nn.Module, images: Tensor, **settings: int) -> MeasureInputs:
    return MeasureInputs(network, images, torch.arange(len(images)) % 5, np.arange(len(images)), **settings)


def test_a_network_invariant_by_construction_changes_nothing_under_quarter_turns(square: Tensor) -> None:
    found = EquivarianceError(layers=True).compute(inputs(invariant(), square))
    assert found["turn.consistent"].all()
    np.testing.assert_array_equal(found["turn.correct"], found["turn.correct"][:, :1].repeat(3, 1))
    for name in ("turn.error.logits", "turn.error.0", "turn.gradient_error", "turn.gradient_norm_change"):
        assert found[name].shape == (20, 3)
        np.testing.assert_allclose(found[name], 0, atol=1e-5, err_msg=name)


def test_channels_that_nobody_declares_are_taken_to_move_with_the_image_only(square: Tensor) -> None:
    found = EquivarianceError(layers=True).compute(inputs(invariant(tells=False), square))
    assert found["turn.error.0"].mean() > 0.1
    np.testing.assert_allclose(found["turn.error.logits"], 0, atol=1e-9)


def test_a_network_without_symmetry_is_told_apart(network: nn.Module, images: Tensor) -> None:
    found = EquivarianceError(layers=True).compute(inputs(network, images))
    assert found["turn.error.0"].mean() > 0.1
    assert found["turn.gradient_error"].mean() > 0.5
    assert found["turn.gradient_norm_change"].mean() > 0.01
    assert found["turn.consistent"].mean() < 1


def test_the_definitions_image_by_image(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    found = EquivarianceError().compute(MeasureInputs(network, images, labels, np.arange(30)))
    for row in (0, 7):
        variable = images[row : row + 1].clone().requires_grad_()
        logits = network(variable)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels[row : row + 1]), variable)
        for column, turns in enumerate((1, 2, 3)):
            turned = torch.rot90(images[row : row + 1], turns, (2, 3)).clone().requires_grad_()
            other = network(turned)
            (back,) = torch.autograd.grad(nn.functional.cross_entropy(other, labels[row : row + 1]), turned)
            back = torch.rot90(back, -turns, (2, 3))
            other, logits = other.detach(), logits.detach()
            change = 2 * (other - logits).square().sum() / (other.square().sum() + logits.square().sum())
            assert found["turn.error.logits"][row, column] == pytest.approx(float(change), rel=1e-4)
            change = 2 * (back - gradient).square().sum() / (back.square().sum() + gradient.square().sum())
            assert found["turn.gradient_error"][row, column] == pytest.approx(float(change), rel=1e-4)
            assert found["turn.correct"][row, column] == (other.argmax() == labels[row])
            assert found["turn.consistent"][row, column] == (other.argmax() == logits.argmax())


def test_angles_and_scales_come_with_their_floor(square: Tensor) -> None:
    smooth = nn.functional.interpolate(square, size=32, mode="bicubic").clamp(0, 1)
    found = EquivarianceError(angles=[90, 30], scales=[0.8], layers=True).compute(inputs(invariant(), smooth[:6]))
    assert found["rotation.error.logits"].shape == (6, 2)
    assert found["scale.floor.logits"].shape == (6, 1)
    assert found["disc.correct"].shape == (6,)
    # Exact equivariance stays exact on the disc, and there the floor is rounding.
    np.testing.assert_allclose(found["rotation.error.0"][:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(found["rotation.floor.0"][:, 0], 0, atol=1e-6)
    assert found["rotation.consistent"][:, 0].all()
    assert np.isnan(found["rotation.error.0"][:, 1]).all()  # no turn of the field's group
    assert np.isnan(found["scale.error.0"]).all()
    assert (found["rotation.floor.logits"][:, 1] < 1e-2).all()


def test_a_pointwise_network_is_equivariant_at_every_angle() -> None:
    # A 1 x 1 convolution commutes with every motion, so that what is left is resampling's own error.
    images = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(images, size=32, mode="bicubic").clamp(0.1, 0.9)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    labels = torch.zeros(4, dtype=torch.int64)
    found = EquivarianceError(angles=[15, 45], scales=[0.7], layers=True).compute(
        MeasureInputs(network, smooth, labels, np.arange(4))
    )
    for name in ("rotation.error.0", "rotation.floor.0", "rotation.error.logits", "scale.error.0"):
        assert found[name].max() < 1e-3, name


def test_relative_error_is_bounded_and_usual_where_it_is_small() -> None:
    first, second = torch.randn((2, 50, 40), generator=torch.Generator().manual_seed(0))
    assert relative_error(first, second).mean() == pytest.approx(2, abs=0.1)
    assert relative_error(first, -first).tolist() == pytest.approx([4] * 50)
    near = first + 1e-3 * second
    usual = (near - first).square().sum(1) / first.square().sum(1)
    torch.testing.assert_close(relative_error(near, first).float(), usual, rtol=1e-2, atol=0)
    assert relative_error(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0


def test_an_image_s_result_does_not_depend_on_its_batch(network: nn.Module, images: Tensor) -> None:
    measure = EquivarianceError(angles=[40], scales=[1.3], layers=True)
    one, other = (measure.compute(inputs(network, images, batch_size=size)) for size in (7, 30))
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values.astype(float), other[name].astype(float), atol=1e-4, err_msg=name)


def test_what_cannot_be_measured_is_refused(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(UserError, match=r"scales must lie in \[1/8, 8\], got \[0.0\]"):
        EquivarianceError(scales=[0.0])
    with pytest.raises(UserError, match="images must be square"):
        EquivarianceError().compute(inputs(network, images[..., :7]))
