import copy
import functools
import itertools

import escnn.nn as escnn_nn
import numpy as np
import pytest
import torch
from escnn import gspaces
from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.basis import steerable_basis
from symmetry_robustness.layers.groups import Group
from symmetry_robustness.layers.rotation import RotationConv


def turn(features: torch.Tensor, quarter: int = 1) -> torch.Tensor:
    return torch.rot90(features, quarter, dims=(-2, -1))


def turn_fields(features: torch.Tensor, order: int, quarter: int = 1) -> torch.Tensor:
    """A quarter turn acting on regular fields of C_N: turn every map, move each on by N/4 group elements."""
    components = turn(features, quarter).unflatten(1, (order, -1))
    return components.roll(quarter * order // 4, dims=1).flatten(1, 2)


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).detach().abs().max())


def field_types(group: str, in_fields: int, out_fields: int, in_representation: str, out_representation: str):
    space = (gspaces.flipRot2dOnR2 if group[0] == "D" else gspaces.rot2dOnR2)(int(group[1:]))
    vector = {"D4": (1, 1), "C8": (2,)}.get(group, (1,))
    fields = {"trivial": space.trivial_repr, "regular": space.regular_repr}
    theirs = [fields.get(name) or space.irrep(*vector) for name in (in_representation, out_representation)]
    return (
        escnn_nn.FieldType(space, in_fields * [theirs[0]]),
        escnn_nn.FieldType(space, out_fields * [theirs[1]]),
    )


def by_component(features: torch.Tensor, fields: int) -> torch.Tensor:
    """From escnn's order of channels, field by field, to ours."""
    return features.unflatten(1, (fields, -1)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize(
    ("group", "in_representation", "out_representation", "kernel_size"),
    [
        ("C4", "trivial", "regular", 3),
        ("C8", "trivial", "regular", 5),
        ("C4", "regular", "regular", 3),
        ("C8", "regular", "regular", 3),
        ("C4", "regular", "trivial", 3),
        ("C8", "regular", "irrep2", 3),
        ("D4", "trivial", "regular", 3),
        ("D4", "irrep1", "irrep1", 3),
    ],
)
def test_equals_escnn_with_the_same_weights(group, in_representation, out_representation, kernel_size):
    in_type, out_type = field_types(group, 3, 5, in_representation, out_representation)
    theirs = escnn_nn.R2Conv(in_type, out_type, kernel_size, padding=kernel_size // 2)
    ours = RotationConv(group, 3, 5, kernel_size, in_representation, out_representation)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    one = escnn_nn.R2Conv(*field_types(group, 1, 1, in_representation, out_representation), kernel_size)
    basis = torch.stack([one.basisexpansion(row) for row in torch.eye(one.weights.numel())]).flatten(1)
    filters = steerable_basis(group, in_representation, out_representation, kernel_size).filters.flatten(1)
    signs = (basis * filters).sum(1).sign()
    assert (
        distance(basis * signs[:, None], filters) < 1e-6
    )  # the same kernels but for the sign, which escnn leaves open
    with torch.no_grad():
        ours.weight.copy_(theirs.weights.view(ours.weight.shape) * signs)
        if ours.bias is not None:
            theirs.bias.normal_()
            # escnn learns the coefficient of the normalised constant vector of a field, we the constant itself.
            ours.bias.copy_(theirs.bias / ours.out_type.size**0.5)
        features = torch.randn(2, in_type.size, 9, 9)
        expected = by_component(theirs(escnn_nn.GeometricTensor(features, in_type)).tensor, 5)
    assert distance(ours(by_component(features, 3)), expected) < 1e-5


@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
def test_starts_with_the_variance_of_escnn(group):
    in_type, out_type = field_types(group, 20, 30, "regular", "regular")
    theirs = escnn_nn.R2Conv(in_type, out_type, 3).weights.view(30, 20, -1)
    ours = RotationConv(group, 20, 30).weight
    # 600 draws each: a relative error of about 3 % of each deviation
    torch.testing.assert_close(ours.std(dim=(0, 1)), theirs.std(dim=(0, 1)), rtol=0.2, atol=0)


def test_lifting_kernel_is_one_kernel_turned():
    kernel, _ = RotationConv("C4", 3, 2, in_representation="trivial").expand()
    kernel = kernel.unflatten(0, (4, 2))
    for quarter in range(4):
        assert distance(kernel[quarter], turn(kernel[0], quarter)) < 1e-6


def test_group_kernel_is_one_kernel_turned_and_permuted():
    kernel, _ = RotationConv("C4", 3, 2).expand()
    kernel = kernel.reshape(4, 2, 4, 3, 3, 3)
    for output, given in itertools.product(range(4), range(4)):
        expected = turn(kernel[0, :, (given - output) % 4], output)
        assert distance(kernel[output, :, given], expected) < 1e-6


def test_group_kernel_of_d4_is_one_kernel_turned_reflected_and_permuted():
    kernel, _ = RotationConv("D4", 3, 2).expand()
    kernel = kernel.reshape(8, 2, 8, 3, 3, 3)
    for output, given in itertools.product(range(8), range(8)):
        mirrored, quarter = output >= 4, output % 4
        # r^q f^s: the relative element is the inverse of the output's times the input's
        relative = (given >= 4) != mirrored, ((quarter - given) if mirrored else (given - quarter)) % 4
        first = kernel[0, :, relative[1] + 4 * relative[0]]
        assert distance(kernel[output, :, given], turn(first.flip(-1) if mirrored else first, quarter)) < 1e-6


@pytest.mark.parametrize("group", ["C4", "C8"])
@pytest.mark.parametrize("size", [8, 32])
def test_commutes_with_quarter_turns_on_even_grids(group, size):
    order = Group(group).order
    lifting, following = RotationConv(group, 3, 4, in_representation="trivial"), RotationConv(group, 4, 6)
    lifting.bias.data.normal_()
    images = torch.randn(3, 3, size, size)
    lifted = lifting(images)
    for quarter in range(1, 4):
        turned = turn_fields(lifted, order, quarter)
        assert distance(lifting(turn(images, quarter)), turned) < 1e-5
        assert distance(following(turned), turn_fields(following(lifted), order, quarter)) < 1e-5


@pytest.mark.parametrize("group", ["C4", "D4", "C8"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(
    ("in_representation", "out_representation"),
    [
        ("trivial", "regular"),
        ("regular", "regular"),
        ("regular", "irrep1"),
        ("irrep1", "trivial+irrep1"),
        ("trivial+irrep1", "irrep1+regular"),
    ],
)
def test_commutes_with_every_exact_element(group, kernel_size, in_representation, out_representation):
    layer = RotationConv(group, 2, 3, kernel_size, in_representation, out_representation)
    if layer.bias is not None:
        layer.bias.data.normal_()
    features = torch.randn(2, layer.in_type.channels, 8, 8)
    output = layer(features)
    assert output.shape[1] == layer.out_channels
    for element in Group(group).exact_elements:
        expected = layer.out_type.act(output, element)
        assert distance(layer(layer.in_type.act(features, element)), expected) < 1e-5
        assert distance(layer.export()(layer.in_type.act(features, element)), expected) < 1e-5


def test_turns_between_the_pixels_hold_for_smooth_kernels_in_the_middle():
    layer = RotationConv("C8", 1, 2, 5, in_representation="trivial", bias=False)
    rows, columns = torch.meshgrid(torch.arange(-20.0, 21), torch.arange(-20.0, 21), indexing="ij")
    smooth = (-((rows - 3) ** 2 + (columns + 4) ** 2) / 40).exp()[None, None]
    turned, expected = layer(Group("C8").transform_images(smooth, 1)), layer.out_type.act(layer(smooth), 1)
    wrong = layer.out_type.act(layer(smooth), 2)
    scale = float(expected.detach().abs().max())
    assert distance(turned, expected) < 0.1 * scale < distance(turned, wrong)


def test_plain_convolution_does_not_commute():
    images = torch.randn(2, 3, 8, 8)
    plain = nn.Conv2d(3, 8, 3, padding=1)
    assert distance(plain(turn(images)), turn_fields(plain(images), 4)) > 0.1


def test_a_stride_keeps_the_symmetry_or_says_that_it_cannot():
    layer = RotationConv("C4", 3, 2, in_representation="trivial", stride=2)
    images = torch.randn(2, 3, 9, 9)
    assert layer(images).shape == (2, 8, 5, 5)
    for features in (layer, layer.export()):
        assert distance(features(turn(images)), turn_fields(features(images), 4)) < 1e-5
    with pytest.raises(UserError, match=r"stride 2 breaks the symmetry at \(8, 8\) pixels"):
        layer(images[..., :8, :8])


def test_bias_is_the_same_for_the_channels_that_the_group_permutes():
    layer = RotationConv("C8", 1, 2, out_representation="regular+irrep1+trivial")
    assert layer.bias.shape == (4,)
    layer.bias.data.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert layer.expand()[1].tolist() == 8 * [1, 2] + 4 * [0] + [3, 4]
    assert RotationConv("C8", 1, 2, out_representation="irrep1").bias is None


def test_export_follows_the_weights_and_draws_no_random_number():
    layer = RotationConv("C4", 3, 2, in_representation="trivial")
    images = torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        state = torch.get_rng_state()
        exported = layer.export()
        assert torch.equal(state, torch.get_rng_state())
        assert type(exported) is nn.Conv2d
        assert distance(exported(images), layer(images)) < 1e-5
        layer.eval()
        layer.train()
        optimizer.zero_grad()
        layer(images).square().mean().backward()
        optimizer.step()


def test_exported_layer_still_says_what_turns_do_to_its_channels():
    exported = copy.deepcopy(RotationConv("C4", 3, 2).export())
    features = torch.randn(1, 8, 4, 4)
    assert distance(turn_fields(features, 4), exported.permute_fields(turn(features), 90.0, 1.0)) == 0


class TestKeptKernel:
    """A kernel is expanded once for each value of the weights, and never used for others."""

    @pytest.fixture
    def layer(self, monkeypatch):
        layer = RotationConv("C4", 2, 2)
        expand = layer.expand_weight
        self.expansions = 0

        def counted(weight):
            self.expansions += 1
            return expand(weight)

        monkeypatch.setattr(layer, "expand_weight", counted)
        return layer

    features = torch.randn(2, 8, 6, 6)

    def expected(self, layer):
        kernel = RotationConv.expand_weight(layer, layer.weight)
        return nn.functional.conv2d(self.features.to(kernel), kernel, layer._expand_bias(), padding=1)

    def test_is_expanded_once(self, layer):
        with torch.no_grad():
            for mode in (True, False):
                layer.train(mode)
                for _ in range(3):
                    assert torch.equal(layer(self.features), self.expected(layer))
        assert self.expansions == 1

    def test_is_expanded_once_per_weight_update(self, layer):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for update in range(1, 4):
            optimizer.zero_grad()
            images = self.features.clone().requires_grad_()
            layer.eval()
            torch.autograd.grad(layer(images).square().sum(), images)  # an attack is crafted
            layer.train()
            for _ in range(2):  # gradients are accumulated
                layer(self.features).square().sum().backward()
            accumulated = layer.weight.grad.clone()
            layer.zero_grad()
            (2 * self.expected(layer).square().sum()).backward()
            assert distance(accumulated, layer.weight.grad) < 1e-6 * float(accumulated.abs().max())
            optimizer.step()
            assert self.expansions == update

    def test_gradients_of_all_orders_reach_the_weights(self):
        layer = RotationConv("C2", 1, 1).double()
        features = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

        def gradient(features):
            return torch.autograd.grad(layer(features).square().sum(), layer.weight, create_graph=True)[0]

        torch.autograd.gradcheck(gradient, features)
        torch.autograd.gradgradcheck(gradient, features)

        def slope_of_slope(forward):
            slope = torch.autograd.grad(forward(features).square().sum(), features, create_graph=True)[0]
            return torch.autograd.grad(slope.square().sum(), layer.weight)[0]

        plain = functools.partial(nn.functional.conv2d, padding=1)
        expected = slope_of_slope(lambda features: plain(features, *layer.expand()))
        torch.testing.assert_close(slope_of_slope(layer), expected)

    def test_serves_input_gradients_of_frozen_weights(self, layer):
        layer.requires_grad_(False)
        with torch.inference_mode():  # a kernel kept here must not be an inference tensor
            layer(self.features)
        features = self.features.clone().requires_grad_()
        layer(features).sum().backward()
        assert features.grad.abs().sum() > 0
        assert self.expansions == 1

    @pytest.mark.parametrize("scope", [torch.no_grad, torch.inference_mode])
    def test_is_never_stale(self, layer, scope):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        other = copy.deepcopy(layer.state_dict())

        def step():
            optimizer.zero_grad()
            layer(self.features).square().mean().backward()
            optimizer.step()

        def write_past_autograd():
            layer.weight.data.mul_(1.5)

        def replace():
            layer.weight.data = torch.randn_like(layer.weight)

        def assign():
            layer.load_state_dict({key: value + 1 for key, value in other.items()}, assign=True)
            optimizer.param_groups[0]["params"] = list(layer.parameters())

        changes = [
            step,
            write_past_autograd,
            replace,
            lambda: layer.load_state_dict(other),
            assign,
            layer.double,
            layer.float,
            layer.eval,
            step,
            layer.train,
            write_past_autograd,
        ]
        for change in changes:
            with scope():
                layer(self.features.to(layer.weight))
            change()
            with scope():
                output = layer(self.features.to(layer.weight))
            assert distance(output, self.expected(layer)) < 1e-6 * float(output.abs().max())

    def test_depends_on_nothing_but_the_weights(self, layer):
        last = self.features.to(memory_format=torch.channels_last)
        with torch.no_grad():
            expected = self.expected(layer)
            for features in (last, self.features, last):
                output = layer(features)
                assert distance(output, expected) < 1e-6
                assert output.is_contiguous(memory_format=torch.channels_last) == (features is last)
            with torch.autocast("cpu", torch.bfloat16):
                low = layer(self.features)
            assert distance(low.float(), expected) < 1e-2 * float(expected.abs().max())

    def test_derivatives_of_other_kinds_are_taken(self):
        layer, features = RotationConv("C4", 2, 2), self.features[:1]
        plain = functools.partial(nn.functional.conv2d, padding=1)
        kernel, bias = layer.expand()
        layer(features)

        def hessian(forward):
            return torch.func.jacrev(torch.func.jacrev(lambda inner: forward(inner).square().sum()))(features)

        torch.testing.assert_close(hessian(layer), hessian(lambda inner: plain(inner, kernel, bias)))
        found = torch.func.grad(lambda weight: torch.func.functional_call(layer, {"weight": weight}, features).sum())
        layer(features).sum().backward()
        torch.testing.assert_close(found(layer.weight.detach()), layer.weight.grad)

    def test_serves_layers_that_were_made_in_inference_mode(self):
        with torch.inference_mode():
            layer = RotationConv("C4", 2, 2)
            assert torch.equal(layer(self.features), self.expected(layer))
        assert torch.equal(layer(self.features), self.expected(layer))

    def test_stays_behind_when_the_layer_is_copied(self):
        layer = RotationConv("C4", 2, 2)
        with torch.no_grad():
            layer(self.features)
        twin = copy.deepcopy(layer)
        assert layer._cache._kernels
        assert not twin._cache._kernels
        with torch.no_grad():
            twin.weight.zero_()
            assert distance(layer(self.features), self.expected(layer)) == 0


def test_basis_is_computed_once_and_leaves_random_states_alone():
    steerable_basis.cache_clear()
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        basis = steerable_basis("D3", "regular", "regular", 3)
    assert (before[0] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())
    assert (basis.filters.device.type, basis.filters.dtype) == ("cpu", torch.float32)
    assert not basis.filters.is_inference()
    assert steerable_basis("D3", "regular", "regular", 3) is basis


def test_basis_has_signs_of_its_own():
    filters = steerable_basis("D4", "regular", "regular", 3).filters.flatten(1)
    sizes = filters.abs()
    first = (sizes > 0.999 * sizes.amax(1, keepdim=True)).int().argmax(1)
    assert (filters.gather(1, first[:, None]) > 0).all()


def test_bfloat16_agrees_and_keeps_channels_last():
    layer = RotationConv("C8", 3, 4, in_representation="trivial")
    images = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
    exported = layer.export()
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(images)
        assert torch.equal(low, exported(images))
    assert low.dtype == torch.bfloat16
    assert low.is_contiguous(memory_format=torch.channels_last)
    full = layer(images).detach()
    assert distance(low.float(), full) < 1e-2 * float(full.abs().max())


def test_state_holds_learned_numbers_only_in_every_mode():
    layer = RotationConv("C4", 3, 2)
    assert list(layer.train().state_dict()) == ["weight", "bias"]
    with torch.no_grad():
        layer.eval()(torch.randn(1, 12, 4, 4))
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": "C0"}, r"group must be .*'C0'"),
        ({"group": "X4"}, r"group must be .*'X4'"),
        ({"group": "C64"}, r"group must be .*'C64'"),
        ({"group": "D16"}, r"group must be .*'D16'"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"kernel_size": 0}, "kernel_size must be a positive"),
        ({"in_fields": 0}, "in_fields must be a positive whole number, got 0"),
        ({"out_fields": "many"}, "fields must be a positive whole number, got 'many'"),
        ({"stride": 0}, "stride must be a positive whole number, got 0"),
        (
            {"in_representation": "trivial", "out_representation": "irrep1", "kernel_size": 1},
            "no kernel .* choose 3",
        ),
        ({"in_representation": "irreducible"}, "representation must be trivial, regular or irrep1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        RotationConv(**{"group": "C4", "in_fields": 3, "out_fields": 2, **settings})
