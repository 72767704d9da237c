import itertools

import escnn.nn as escnn_nn
import numpy as np
import pytest
import torch
from escnn import gspaces
from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.rotation import GroupPool, InnerBatchNorm, RotationConv, group_order, steerable_basis


def turn(features: torch.Tensor, quarter: int = 1) -> torch.Tensor:
    return torch.rot90(features, quarter, dims=(-2, -1))


def turn_fields(features: torch.Tensor, order: int, quarter: int = 1) -> torch.Tensor:
    """A quarter turn acting on regular fields of C_N: turn every map, move each on by N/4 group elements."""
    fields = turn(features, quarter).unflatten(1, (-1, order))
    return fields.roll(quarter * order // 4, dims=2).flatten(1, 2)


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).detach().abs().max())


def field_types(group: str, in_fields: int, out_fields: int, in_representation: str, out_representation: str):
    space = (gspaces.rot2dOnR2 if group[0] == "C" else gspaces.flipRot2dOnR2)(int(group[1:]))
    fields = {"trivial": space.trivial_repr, "regular": space.regular_repr}
    return (
        escnn_nn.FieldType(space, in_fields * [fields[in_representation]]),
        escnn_nn.FieldType(space, out_fields * [fields[out_representation]]),
    )


@pytest.mark.parametrize(
    ("group", "in_representation", "out_representation", "kernel_size"),
    [
        ("C4", "trivial", "regular", 3),
        ("C8", "trivial", "regular", 5),
        ("C4", "regular", "regular", 3),
        ("C8", "regular", "regular", 3),
        ("C4", "regular", "trivial", 3),
        ("D4", "trivial", "regular", 3),
    ],
)
def test_equals_escnn_with_the_same_weights(group, in_representation, out_representation, kernel_size):
    in_type, out_type = field_types(group, 3, 5, in_representation, out_representation)
    theirs = escnn_nn.R2Conv(in_type, out_type, kernel_size, padding=kernel_size // 2)
    ours = RotationConv(group, 3, 5, kernel_size, in_representation, out_representation)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        ours.weight.copy_(theirs.weights.view(ours.weight.shape))
        theirs.bias.normal_()
        # escnn learns the coefficient of the normalised constant vector of a field, we the constant itself.
        ours.bias.copy_(theirs.bias / ours.filter_shape[0] ** 0.5)
        features = torch.randn(2, in_type.size, 9, 9)
        expected = theirs(escnn_nn.GeometricTensor(features, in_type)).tensor
    assert distance(ours(features), expected) < 1e-5


@pytest.mark.parametrize("group", ["C4", "C8"])
def test_starts_with_the_variance_of_escnn(group):
    in_type, out_type = field_types(group, 20, 30, "regular", "regular")
    theirs = escnn_nn.R2Conv(in_type, out_type, 3).weights.view(30, 20, -1)
    ours = RotationConv(group, 20, 30).weight
    # 600 draws each: a relative error of about 3 % of each deviation
    torch.testing.assert_close(ours.std(dim=(0, 1)), theirs.std(dim=(0, 1)), rtol=0.2, atol=0)


def test_lifting_kernel_is_one_kernel_turned():
    kernel, _ = RotationConv("C4", 3, 2, in_representation="trivial").expand()
    kernel = kernel.unflatten(0, (2, 4))
    for quarter in range(4):
        assert distance(kernel[:, quarter], turn(kernel[:, 0], quarter)) < 1e-6


def test_group_kernel_is_one_kernel_turned_and_permuted():
    kernel, _ = RotationConv("C4", 3, 2).expand()
    kernel = kernel.view(2, 4, 3, 4, 3, 3)
    for output, given in itertools.product(range(4), range(4)):
        expected = turn(kernel[:, 0, :, (given - output) % 4], output)
        assert distance(kernel[:, output, :, given], expected) < 1e-6


@pytest.mark.parametrize("group", ["C4", "C8"])
@pytest.mark.parametrize("size", [8, 32])
def test_layers_commute_with_quarter_turns_on_even_grids(group, size):
    order = group_order(group)
    layers = nn.Sequential(RotationConv(group, 4, 6), InnerBatchNorm(6, order), nn.ReLU(), nn.MaxPool2d(2))
    layers[1].norm.weight.data.uniform_(0.5, 2)
    lifting = RotationConv(group, 3, 4, in_representation="trivial")
    lifting.bias.data.normal_()
    images = torch.randn(3, 3, size, size)
    for quarter in range(1, 4):
        lifted = lifting(images)
        assert distance(lifting(turn(images, quarter)), turn_fields(lifted, order, quarter)) < 1e-5
        features = lifted
        for layer in layers:  # in training mode: the statistics of a batch are invariant, too
            following = layer(features)
            assert distance(layer(turn_fields(features, order, quarter)), turn_fields(following, order, quarter)) < 1e-5
            features = following
        pool = GroupPool(order)
        assert distance(pool(turn_fields(features, order, quarter)), turn(pool(features), quarter)) < 1e-5


def test_reflections_and_turns_commute_for_d4():
    order = group_order("D4")
    network = nn.Sequential(
        RotationConv("D4", 3, 2, in_representation="trivial"),
        nn.ReLU(),
        RotationConv("D4", 2, 3),
        InnerBatchNorm(3, order),
        nn.MaxPool2d(2),
        GroupPool(order),
    )
    images = torch.randn(2, 3, 16, 16)
    pooled = network(images)
    for quarter, mirrored in itertools.product(range(4), (False, True)):
        move = lambda maps, q=quarter, m=mirrored: turn(maps.flip(-1) if m else maps, q)  # noqa: E731
        assert distance(network(move(images)), move(pooled)) < 1e-5


def test_plain_convolution_does_not_commute():
    images = torch.randn(2, 3, 8, 8)
    plain = nn.Conv2d(3, 8, 3, padding=1)
    assert distance(plain(turn(images)), turn_fields(plain(images), 4)) > 0.1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_inner_batch_norm_equals_escnn_and_its_export(memory_format):
    in_type, _ = field_types("C8", 5, 1, "regular", "regular")
    theirs, ours = escnn_nn.InnerBatchNorm(in_type), InnerBatchNorm(5, 8)
    for _ in range(3):
        features = (2 * torch.randn(4, 40, 6, 6) + 1).to(memory_format=memory_format)
        normed = ours(features)
        assert normed.is_contiguous(memory_format=memory_format)
        assert distance(normed, theirs(escnn_nn.GeometricTensor(features.contiguous(), in_type)).tensor) < 1e-5
    exported = ours.eval().export()
    assert distance(exported(features), ours(features)) < 1e-5
    assert (
        distance(ours(features), theirs.eval()(escnn_nn.GeometricTensor(features.contiguous(), in_type)).tensor) < 1e-5
    )


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


def test_bfloat16_agrees_and_keeps_channels_last():
    layer = RotationConv("C8", 3, 4, in_representation="trivial")
    images = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(images)
    assert low.dtype == torch.bfloat16
    assert low.is_contiguous(memory_format=torch.channels_last)
    full = layer(images).detach()
    assert distance(low.float(), full) < 1e-2 * float(full.abs().max())


def test_state_holds_learned_numbers_only_in_every_mode():
    layer = RotationConv("C4", 3, 2)
    assert list(layer.train().state_dict()) == ["weight", "bias"]
    assert list(layer.eval().state_dict()) == ["weight", "bias"]


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
        ({"in_representation": "irreducible"}, "representation must be trivial or regular"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        RotationConv(**{"group": "C4", "in_fields": 3, "out_fields": 2, **settings})
