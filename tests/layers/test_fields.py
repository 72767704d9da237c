import escnn.nn as escnn_nn
import pytest
import torch
from escnn import gspaces
from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.fields import (
    InnerBatchNorm,
    NormReLU,
    VectorBatchNorm,
    field_nonlinearity,
    field_norm,
)
from symmetry_robustness.layers.groups import FieldType, Group
from symmetry_robustness.layers.pooling import GroupPool, TilingPool, field_pool, group_pool

FORMATS = [torch.contiguous_format, torch.channels_last]
REPRESENTATIONS = ["trivial", "regular", "irrep1", "trivial+irrep1+regular"]


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).detach().abs().max())


@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_layers_commute_with_every_exact_element_at_32_pixels(group, representation):
    field_type = FieldType(group, representation, 3)
    layers = [field_norm(field_type), field_nonlinearity(field_type, "norm"), field_pool(field_type, "average")]
    if field_type.is_permuted:
        layers += [field_nonlinearity(field_type, "relu"), field_pool(field_type, "max")]
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
    invariant = FieldType(group, "trivial", 3 * len(field_type.parts))
    features = torch.randn(3, field_type.channels, 32, 32)
    for element in Group(group).exact_elements:
        moved = field_type.act(features, element)
        for training in (True, False):  # the statistics of a batch are invariant, too
            for layer in layers:
                layer.train(training)
                expected = field_type.act(layer(features.clone()), element)
                assert distance(layer(moved.clone()), expected) < 1e-5
        pool = group_pool(field_type)
        assert distance(pool(moved), invariant.act(pool(features), element)) < 1e-5


def test_what_treats_the_channels_of_a_field_apart_does_not_commute():
    features = torch.randn(3, 8, 8, 8)
    regular, vectors = FieldType("C4", "regular", 2), FieldType("C4", "irrep1", 4)
    plain = nn.BatchNorm2d(8)
    nn.init.uniform_(plain.weight, 0.5, 1.5)
    assert distance(plain(regular.act(features, 1)), regular.act(plain(features), 1)) > 0.1
    assert distance(vectors.act(features, 1).relu(), vectors.act(features.relu(), 1)) > 0.1


@pytest.mark.parametrize("memory_format", FORMATS)
def test_inner_batch_norm_equals_escnn_and_its_export(memory_format):
    space = gspaces.rot2dOnR2(8)
    in_type = escnn_nn.FieldType(space, 5 * [space.regular_repr])
    theirs, ours = escnn_nn.InnerBatchNorm(in_type), InnerBatchNorm(5, 8)

    def expected(features: torch.Tensor) -> torch.Tensor:
        by_field = features.unflatten(1, (8, 5)).transpose(1, 2).flatten(1, 2).contiguous()
        normed = theirs(escnn_nn.GeometricTensor(by_field, in_type)).tensor
        return normed.unflatten(1, (5, 8)).transpose(1, 2).flatten(1, 2)

    for _ in range(3):
        features = (2 * torch.randn(4, 40, 6, 7) + 1).to(memory_format=memory_format)
        normed = ours(features)
        assert normed.is_contiguous(memory_format=memory_format)
        assert distance(normed, expected(features)) < 1e-5
    exported = ours.eval().export()
    assert distance(exported(features), ours(features)) < 1e-5
    theirs.eval()
    assert distance(ours(features), expected(features)) < 1e-5


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_of_inner_batch_norm_are_those_of_its_definition(memory_format):
    norm = InnerBatchNorm(3, 4)
    nn.init.uniform_(norm.norm.weight, 0.5, 1.5)
    features = torch.randn(5, 12, 6, 6).to(memory_format=memory_format).requires_grad_()
    direction = torch.randn(5, 12, 6, 6)
    fields = features.unflatten(1, (4, 3))
    mean = fields.mean(dim=(0, 1, 3, 4), keepdim=True)
    variance = (fields - mean).square().mean(dim=(0, 1, 3, 4), keepdim=True)
    weight, bias = (p.view(1, 1, 3, 1, 1) for p in (norm.norm.weight, norm.norm.bias))
    defined = ((fields - mean) / (variance + norm.norm.eps).sqrt() * weight + bias).flatten(1, 2)
    inputs = [features, norm.norm.weight, norm.norm.bias]
    expected = torch.autograd.grad((defined * direction).sum(), inputs)
    for found, gradient in zip(torch.autograd.grad((norm(features) * direction).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_inner_batch_norm_moves_no_number(memory_format):
    seen = []
    norm = InnerBatchNorm(3, 4)
    norm.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = torch.randn(5, 12, 6, 6).to(memory_format=memory_format)
    norm(features)
    assert seen[0].data_ptr() == features.data_ptr()
    assert seen[0].is_contiguous(memory_format=memory_format)


def test_inner_batch_norm_becomes_a_synchronised_one():
    norm = nn.SyncBatchNorm.convert_sync_batchnorm(InnerBatchNorm(3, 4)).eval()
    assert isinstance(norm.norm, nn.SyncBatchNorm)
    features = torch.randn(2, 12, 5, 5)
    assert distance(norm(features), norm.export()(features)) < 1e-6


def test_vector_norm_makes_components_of_mean_square_one():
    norm = VectorBatchNorm(3, momentum=1.0)
    features = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])[:, None, None] * torch.randn(400, 6, 4, 4)
    mean_square = norm(features).square().mean(dim=(0, 2, 3)).view(2, 3).mean(dim=0)
    torch.testing.assert_close(mean_square, torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(norm.running_square, torch.tensor([17 / 2, 29 / 2, 45 / 2]), rtol=0.05, atol=0)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    assert distance(norm.eval()(features), norm.export()(features)) < 1e-5


def test_norm_relu_shortens():
    features = torch.tensor([3.0, 0.3, 4.0, 0.4]).view(1, 4, 1, 1)  # two vectors, (3, 4) and (0.3, 0.4)
    shortened = NormReLU(2, 2)(features).flatten()
    torch.testing.assert_close(shortened, torch.tensor([3 * 0.8, 0, 4 * 0.8, 0]))
    zero = torch.zeros(1, 4, 1, 1, requires_grad=True)
    NormReLU(2, 2)(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros_like(zero))


@pytest.mark.parametrize("representation", ["regular", "trivial+irrep1"])
def test_bfloat16_agrees(representation):
    field_type = FieldType("C8", representation, 4)
    block = nn.Sequential(field_norm(field_type), field_nonlinearity(field_type, "norm"), group_pool(field_type))
    features = torch.randn(8, field_type.channels, 8, 8)
    full = block(features).detach()
    assert distance(block(features.bfloat16()).float(), full) < 2e-2 * float(full.abs().max())


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pool_says_which_sizes_break_the_symmetry(kind):
    pool = TilingPool(kind)
    features = torch.randn(1, 2, 6, 6)
    assert distance(pool(torch.rot90(features, 1, (2, 3))), torch.rot90(pool(features), 1, (2, 3))) < 1e-6
    assert distance(pool.export()(features), pool(features)) == 0
    with pytest.raises(UserError, match="windows of 2×2 do not tile 5 pixels"):
        pool(features[..., :5, :5])
    odd = pool.export()(torch.rot90(features[..., :5, :5], 1, (2, 3)))  # what it protects from
    assert distance(odd, torch.rot90(pool.export()(features[..., :5, :5]), 1, (2, 3))) > 0.1


def test_group_pool_is_the_largest_channel_of_each_field():
    features = torch.arange(8.0).view(1, 8, 1, 1)
    assert GroupPool(4)(features).flatten().tolist() == [6, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: field_nonlinearity(FieldType("C8", "irrep1", 1), "relu"), "relu does not commute .* choose norm"),
        (
            lambda: field_nonlinearity(FieldType("C8", "regular", 1), "gelu"),
            "nonlinearity must be relu or norm, got 'gelu'",
        ),
        (lambda: field_pool(FieldType("C8", "trivial+irrep1", 1), "max"), "pool max does not commute .* average"),
        (lambda: field_pool(FieldType("C8", "regular", 1), "min"), "pool must be max or average, got 'min'"),
    ],
)
def test_a_bad_setting_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_vectors_keep_the_sign_of_their_gain_when_exported():
    norm = VectorBatchNorm(2)
    norm.weight.data = torch.tensor([1.0, -0.5])
    features = torch.randn(4, 4, 6, 6)
    norm(features)
    assert distance(norm.eval().export()(features), norm(features)) < 1e-5
