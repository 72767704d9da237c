import copy
import itertools
import sys
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symmetry_robustness.data.shapes import make_shapes
from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.layers.pooling import GroupPool
from symmetry_robustness.layers.scale import MultiScaleConv, PerScaleConv, ScaleConv, ScaleLifting, downsample_fields
from symmetry_robustness.layers.scale_group import ScaleGroup, hermite_basis
from symmetry_robustness.resampling import downsample
from tests import fork_server

SCALES, ROTO_SCALES = ScaleGroup(), ScaleGroup(rotations=4)
GROUPS = pytest.mark.parametrize("group", [SCALES, ROTO_SCALES], ids=["C1", "C4"])


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).detach().abs().max())


def pair(group: ScaleGroup, scale_extent: int = 1) -> nn.Sequential:
    """A lifting and a group convolution with biases, nothing between them."""
    layers = nn.Sequential(ScaleLifting(group, 3, 4), ScaleConv(group, 4, 5, scale_extent))
    for layer in layers:
        nn.init.normal_(layer.bias)
    return layers


def stack(group: ScaleGroup, scale_extent: int = 1, depth: int = 3) -> nn.Sequential:
    """Convolutions with inner batch norm and ReLU, as in a network."""
    layers: list[nn.Module] = [ScaleLifting(group, 3, 8)]
    for _ in range(depth - 1):
        layers += [InnerBatchNorm(8, group.order), nn.ReLU(), ScaleConv(group, 8, 8, scale_extent)]
    return nn.Sequential(*layers, InnerBatchNorm(8, group.order), nn.ReLU())


# --- the law of scale ------------------------------------------------------------------------------------------------


def natural(size: int = 80) -> Tensor:
    """Random images with the spectrum of natural ones: amplitude 1/frequency, mean 0, variance 1."""
    frequency = torch.fft.fftfreq(size)
    radius = torch.hypot(frequency[:, None], frequency)
    noise = torch.fft.fft2(torch.randn(4, 3, size, size))
    images = torch.fft.ifft2(torch.where(radius > 0, noise / radius, 0)).real
    return images / images.std()


def drawn() -> Tensor:
    """Images of the embedded data set, each channel's mean removed, mirrored at their borders; (4, 3, 94, 94)."""
    images = make_shapes(4, seed=0, part=0)[0].float() / 255
    return F.pad(images - images.mean(dim=(2, 3), keepdim=True), [31] * 4, mode="reflect")


SIGNALS = {"natural": natural, "drawn": drawn}
STATED = pytest.mark.parametrize("signal", SIGNALS)


def calibrate(network: nn.Module, images: Tensor) -> nn.Module:
    """Evaluation mode with batch norm statistics of these images."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    network.train()(images)
    return network.eval()


@torch.no_grad()
def equivariance_error(network: nn.Module, images: Tensor, group: ScaleGroup | None, unlawful: int = 1) -> float:
    """‖L Φ(f) - Φ(L f)‖² / ‖L Φ(f)‖² for L shrinking by one step, inside the border and below the last scales.

    Without a group the features are plain images: shrinking does nothing to their channels.
    """
    if group is None:
        moved, again = downsample(network(images), SCALES.step), network(downsample(images, SCALES.step))
    else:
        lawful = lambda maps: maps.unflatten(1, (group.scales, -1))[:, : group.scales - unlawful]  # noqa: E731
        moved = lawful(downsample_fields(network(images), group))
        again = lawful(network(downsample(images, group.step)))
    inside = (..., slice(14, -14), slice(14, -14))
    return float((moved[inside] - again[inside]).square().sum() / moved[inside].square().sum())


def plain(kernel_size: int, depth: int, channels: int = 24) -> nn.Sequential:
    """Plain convolutions with batch norm and ReLU."""
    widths = [3, *[channels] * depth]
    layers = [(nn.Conv2d(i, o, kernel_size, padding="same"), nn.BatchNorm2d(o), nn.ReLU()) for i, o in pairwise(widths)]
    return nn.Sequential(*[module for block in layers for module in block])


# Every bound is about twice what was measured with three seeds. In the same measure the released setting of
# arXiv 1910.11093 on STL-10 (σ from 0.9; filters of 3, 5 and 7 pixels) has 0.024 to 0.026 for one lifting; the
# resampling itself has 1.4e-6 on waves up to 0.8 of what the smaller grid can hold.


@STATED
@GROUPS
def test_layers_commute_with_shrinking(group, signal):
    images = SIGNALS[signal]()
    errors = [equivariance_error(ScaleLifting(group, 3, 8), images, group)]  # 0.0007 to 0.003
    errors += [equivariance_error(pair(group, span), images, group, span) for span in (1, 2)]  # 0.0001 to 0.004
    assert max(errors) < 0.008
    same_size = equivariance_error(nn.Conv2d(3, 24, 9, padding="same"), images, None)  # 0.2 to 0.6
    assert max(errors) < same_size / 10


@STATED
@GROUPS
@pytest.mark.parametrize(("depth", "bound"), [(1, 0.02), (3, 0.07)])
def test_stacks_commute_with_shrinking(group, depth, bound, signal):
    images = SIGNALS[signal]()
    error = equivariance_error(calibrate(stack(group, depth=depth), images), images, group)
    assert error < bound  # 0.002 to 0.01, and 0.01 to 0.04: ReLU makes detail that is too fine for the grid
    assert (
        error < equivariance_error(calibrate(plain(9, depth), images), images, None) / 10
    )  # of 0.2 to 0.5, 0.6 to 0.9
    assert (
        error < equivariance_error(calibrate(plain(3, depth), images), images, None) / 5
    )  # of 0.04 to 0.13, 0.2 to 0.5


@STATED
def test_the_paper_s_branches_do_not_commute_with_shrinking(signal):
    images = SIGNALS[signal]()
    ours = equivariance_error(calibrate(stack(SCALES, depth=1), images), images, SCALES)
    assert equivariance_error(calibrate(MultiScaleConv(8), images), images, None) > 5 * ours  # 0.04 to 0.09


def test_interaction_breaks_the_law_at_the_last_scale_only():
    images = natural()
    network = pair(SCALES, scale_extent=2)
    assert equivariance_error(network, images, SCALES, unlawful=2) < 0.008
    assert equivariance_error(network, images, SCALES, unlawful=1) > 0.1


def test_shrinking_moves_fields_down_by_one_scale():
    features = torch.rand(2, 2 * ROTO_SCALES.order, 20, 20)
    moved = downsample_fields(features, ROTO_SCALES).unflatten(1, (3, 4, 2))
    torch.testing.assert_close(moved[:, :2], downsample(features, 2**0.5).unflatten(1, (3, 4, 2))[:, 1:])
    assert not moved[:, 2].any()


# --- the law of quarter turns ----------------------------------------------------------------------------------------


def turn(features: Tensor, quarter: int = 1) -> Tensor:
    return torch.rot90(features, quarter, dims=(-2, -1))


def turn_fields(features: Tensor, group: ScaleGroup, quarter: int = 1) -> Tensor:
    fields = turn(features, quarter).unflatten(1, (group.scales, group.rotations, -1))
    return fields.roll(quarter, dims=2).flatten(1, 3)


@pytest.mark.parametrize("scale_extent", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 32])
def test_layers_commute_with_quarter_turns_on_even_grids(scale_extent, size):
    lifting, convolution = pair(ROTO_SCALES, scale_extent)
    images = torch.rand(2, 3, size, size)
    lifted = lifting(images)
    for quarter in range(1, 4):
        turned = turn_fields(lifted, ROTO_SCALES, quarter)
        assert distance(lifting(turn(images, quarter)), turned) < 1e-5
        expected = turn_fields(convolution(lifted), ROTO_SCALES, quarter)
        assert distance(convolution(turned), expected) < 1e-5 * max(1, float(expected.detach().abs().max()))
        pool = GroupPool(ROTO_SCALES.order)
        assert distance(pool(turned), turn(pool(lifted), quarter)) < 1e-5


@pytest.mark.parametrize("exported", [False, True])
@torch.no_grad()
def test_layers_say_what_turning_and_scaling_do_to_their_channels(exported):
    layers, images = pair(ROTO_SCALES), torch.rand(2, 3, 32, 32)
    for layer in layers:
        features = layer(images)
        said = layer.export().permute_fields if exported else layer.permute_fields
        assert torch.equal(said(turn(features), 90.0, 1.0), turn_fields(features, ROTO_SCALES))
        shrunk = said(downsample(features, 2**0.5), 0.0, 0.5**0.5)
        unknown = torch.isnan(shrunk)
        assert torch.equal(torch.where(unknown, 0, shrunk), downsample_fields(features, ROTO_SCALES))
        assert unknown.unflatten(1, (3, -1)).flatten(2).all(2).tolist() == [[False, False, True]] * 2
        assert said(features, 45.0, 1.0) is None
        assert said(features, 0.0, 0.8) is None
        images = features
    assert ScaleLifting(SCALES, 3, 4).permute_fields(features, 90.0, 1.0) is None


# --- definition and start --------------------------------------------------------------------------------------------


@GROUPS
@pytest.mark.parametrize("scale_extent", [1, 2])
def test_equals_the_dense_convolution_of_its_definition(group, scale_extent):
    layer = ScaleConv(group, 2, 3, scale_extent)
    nn.init.normal_(layer.bias)
    rotations, scales, largest = group.rotations, group.scales, group.radii[-1]
    weight = layer.weight.detach().view(3, 2, rotations, scale_extent, -1)
    kernel = torch.zeros(scales, rotations, 3, scales, rotations, 2, 2 * largest + 1, 2 * largest + 1)
    for turned, given in itertools.product(range(rotations), repeat=2):
        for scale, above in itertools.product(range(scales), range(scale_extent)):
            if scale + above < scales:
                functions = torch.tensor(hermite_basis(group)[scale][:, turned], dtype=torch.float32)
                functions = F.pad(functions, [largest - group.radii[scale]] * 4)
                coefficients = weight[:, :, (given - turned) % rotations, above]
                kernel[scale, turned, :, scale + above, given] = torch.einsum("oif,fyx->oiyx", coefficients, functions)
    for height, width in ((12, 12), (9, 2), (1, 1)):  # maps smaller than the filters, too
        features = torch.randn(2, 2 * group.order, height, width)
        dense = F.conv2d(features, kernel.flatten(3, 5).flatten(0, 2), padding=largest)
        expected = dense + layer.bias.repeat(group.order).view(-1, 1, 1)
        torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-4)


@GROUPS
def test_lifting_sees_the_same_filter_at_every_scale_and_turn(group):
    layer = ScaleLifting(group, 3, 2)
    kernel = layer.expand()[0].detach().unflatten(0, (group.scales, group.rotations, 2))
    for turned, scale in itertools.product(range(group.rotations), range(group.scales)):
        margin = group.radii[-1] - group.radii[scale]
        functions = torch.tensor(hermite_basis(group)[scale][:, turned], dtype=torch.float32)
        expected = torch.einsum("oif,fyx->oiyx", layer.weight.detach(), functions)
        torch.testing.assert_close(kernel[scale, turned], F.pad(expected, [margin] * 4))


@GROUPS
def test_starts_with_the_variance_of_its_input(group):
    lifted = ScaleLifting(group, 30, 60)(torch.randn(4, 30, 24, 24))[..., 4:-4, 4:-4]
    assert float(lifted.detach().var()) == pytest.approx(1, rel=0.1)
    convolved = ScaleConv(group, 16, 60)(torch.randn(4, 16 * group.order, 24, 24))[..., 4:-4, 4:-4]
    assert float(convolved.detach().var()) == pytest.approx(1, rel=0.1)


def test_interaction_starts_with_the_variance_of_its_input_below_the_last_scale():
    group = ScaleGroup(scales=4)
    single, double = (
        ScaleConv(group, 16, 60, span)(torch.randn(4, 64, 24, 24)).detach().unflatten(1, (4, 60))[:, :3].var()
        for span in (1, 2)
    )
    assert float(double / single) == pytest.approx(1, rel=0.1)


# --- forms of use ----------------------------------------------------------------------------------------------------


@GROUPS
@pytest.mark.parametrize("scale_extent", [1, 2])
def test_export_follows_the_weights_and_draws_no_random_number(group, scale_extent):
    layers = pair(group, scale_extent)
    images = torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    for _ in range(2):
        state = torch.get_rng_state()
        exported = nn.Sequential(*(layer.export() for layer in layers))
        assert torch.equal(state, torch.get_rng_state())
        assert [type(layer) for layer in exported] == [nn.Conv2d, PerScaleConv]
        assert not any(parameter.requires_grad for parameter in exported.parameters())
        assert distance(exported(images), layers(images)) < 1e-5
        layers.eval()
        layers.train()
        optimizer.zero_grad()
        layers(images).square().mean().backward()
        optimizer.step()
    before = layers(images).detach()
    for parameter in exported.parameters():
        parameter.fill_(0)  # shares nothing
    assert torch.equal(layers(images), before)


@GROUPS
@pytest.mark.parametrize("scale_extent", [1, 2])
def test_channels_last_and_bfloat16_agree(group, scale_extent):
    layers = pair(group, scale_extent)
    images = torch.rand(2, 3, 8, 8)
    full = layers(images).detach()
    layers.to(memory_format=torch.channels_last)
    last = images.to(memory_format=torch.channels_last)
    assert distance(layers(last), full) < 1e-5 * float(full.abs().max())
    assert layers(last).is_contiguous(memory_format=torch.channels_last)
    assert layers(images).is_contiguous()
    exported = nn.Sequential(*(layer.export() for layer in layers))
    with torch.autocast("cpu", torch.bfloat16):
        low = layers(last)
        assert distance(exported(last).float(), low.float()) < 1e-2 * float(full.abs().max())
    assert low.dtype == torch.bfloat16
    assert low.is_contiguous(memory_format=torch.channels_last)
    assert distance(low.float(), full) < 1e-2 * float(full.abs().max())


@GROUPS
@pytest.mark.parametrize("scale_extent", [1, 2])
def test_compiles_into_one_graph_with_its_gradients_and_copies(group, scale_extent):
    layers, images = pair(group, scale_extent), torch.rand(2, 3, 8, 8)
    twin = copy.deepcopy(layers)
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), layers(images))
    for network in (compiled, layers):
        network(images).square().mean().backward()
    for ours, theirs in zip(layers.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


RANK = """
import os
import sys
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from symmetry_robustness.layers.scale import ScaleConv, ScaleGroup, ScaleLifting

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
group, layers, images = torch.load(f"{folder}/whole.pt", weights_only=False)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
parallel = DistributedDataParallel(layers)
parallel(images[rank::2]).square().mean().backward()
torch.save([parameter.grad for parameter in layers.parameters()], f"{folder}/{rank}.pt")
distributed.barrier()
os._exit(0)  # now and then torch 2.13 aborts while it takes the group down
"""


@pytest.mark.slow
def test_two_processes_get_the_gradients_of_the_whole_batch(tmp_path):
    layers, images = pair(ROTO_SCALES, scale_extent=2), torch.rand(4, 3, 8, 8)
    torch.save((ROTO_SCALES, layers, images), tmp_path / "whole.pt")
    ranks = [fork_server.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    layers(images).square().mean().backward()
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for rank in range(2):
        for parameter, gradient in zip(layers.parameters(), torch.load(tmp_path / f"{rank}.pt"), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


@GROUPS
def test_kernels_are_expanded_once_and_never_stale(group, monkeypatch):
    layers, images = pair(group), torch.rand(2, 3, 8, 8)
    expansions = []
    for layer in layers:
        original = layer.expand_weight
        counted = lambda weight, original=original: expansions.append(1) or original(weight)  # noqa: E731
        monkeypatch.setattr(layer, "expand_weight", counted)
    with torch.no_grad():
        expected = layers(images)
        with torch.autocast("cpu", torch.bfloat16):
            layers(images)
        assert torch.equal(layers.train()(images), expected)
        assert torch.equal(layers.eval()(images), expected)
        assert len(expansions) == len(layers)
        for layer in layers:
            layer.weight.data *= 2
            layer.bias.data *= 4 if layer is layers[1] else 2
        torch.testing.assert_close(layers(images), 4 * expected)
    for _ in range(2):
        layers.zero_grad()
        layers(images).square().sum().backward()
    assert len(expansions) == 2 * len(layers)
    found = [layer.weight.grad.clone() for layer in layers]
    layers.zero_grad()
    plain = copy.deepcopy(layers)
    for layer in plain:
        layer._cache.get = lambda weight, expand: expand(weight)
    plain(images).square().sum().backward()
    for gradient, layer in zip(found, plain, strict=True):
        torch.testing.assert_close(gradient, layer.weight.grad)


def test_state_holds_learned_numbers_only_in_every_mode():
    for layer in pair(ROTO_SCALES):
        assert list(layer.train().state_dict()) == ["weight", "bias"]
        assert list(layer.eval().state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_fields": 0}, "in_fields must be a positive whole number, got 0"),
        ({"out_fields": "many"}, "fields must be a positive whole number, got 'many'"),
        ({"scale_extent": 0}, "scale_extent must be a positive whole number, got 0"),
        ({"scale_extent": 4}, "scale_extent must be at most 3, the number of scales, got 4"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        ScaleConv(SCALES, **{"in_fields": 3, "out_fields": 2, **settings})


# --- the paper's branches --------------------------------------------------------------------------------------------


def test_scale_one_is_a_plain_block():
    layer = MultiScaleConv(4, scales=[1]).eval()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(layer(images), layer.blocks[0](images))


def test_half_scale_sees_the_mean_of_two_by_two_pixels():
    layer = MultiScaleConv(1, scales=[0.5]).eval()
    layer.blocks[0] = nn.Identity()
    blocks = torch.rand(2, 3, 4, 4)
    images = blocks.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = nn.functional.interpolate(blocks, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(layer(images), expected)


def test_every_scale_has_its_own_weights_and_channels():
    layer = MultiScaleConv(16, scales=[0.5, 1, 2]).eval()
    assert sum(p.numel() for p in layer.parameters()) == 3 * (3 * 16 * 9 + 16 + 2 * 16)
    images = torch.rand(2, 3, 8, 8)
    features = layer(images)
    assert features.shape == (2, layer.out_channels, 8, 8) == (2, 48, 8, 8)
    for parameter in layer.blocks[2].parameters():
        parameter.data.zero_()
    changed = layer(images)
    torch.testing.assert_close(changed[:, :32], features[:, :32])
    assert not changed[:, 32:].any()


@pytest.mark.parametrize("scales", [[], [0], [1, -2], ["half"]])
def test_bad_scales_are_named(scales):
    with pytest.raises(UserError, match="scales must be positive"):
        MultiScaleConv(16, scales=scales)
