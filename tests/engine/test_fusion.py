import copy

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.engine.fusion import Affine, HalvingMaxPool, ImageConv, SmallMapConv, fuse


def trained_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm with statistics and weights as training leaves them."""
    norm = nn.BatchNorm2d(channels)
    for values in (norm.running_mean, norm.bias.data):
        values.normal_()
    for values in (norm.running_var, norm.weight.data):
        values.uniform_(0.5, 2.0)
    return norm


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), trained_norm(outputs), nn.ReLU(inplace=True))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"left": block(3, 4), "right": block(3, 4)})

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([branch(images) for branch in self.branches.values()], dim=1)


@pytest.fixture
def network() -> nn.Module:
    normalize = nn.BatchNorm2d(3, affine=False, eps=0.0)
    trunk = nn.Sequential(nn.MaxPool2d(2), block(8, 6), nn.MaxPool2d(2), nn.Dropout())
    return nn.Sequential(normalize, Branches(), trunk, nn.Flatten(), nn.Linear(24, 5)).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 8, 8)


def layers(network: nn.Module) -> list[str]:
    return [type(module).__name__ for module in network.modules()]


def test_computes_the_same_with_fewer_layers(network: nn.Module, images: Tensor) -> None:
    fused = fuse(network, images)
    assert "BatchNorm2d" in layers(network)
    assert not {"BatchNorm2d", "Dropout"} & set(layers(fused))
    torch.testing.assert_close(fused(images), network(images), rtol=0, atol=1e-5)
    assert fuse(fused, images) is fused
    gradients = []
    for form in (network, fused):
        variable = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(form(variable).square().sum(), variable)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_leaves_the_network_alone(network: nn.Module, images: Tensor) -> None:
    before, state = copy.deepcopy(network), torch.get_rng_state()
    fuse(network, images)
    assert layers(network) == layers(before)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert torch.equal(state, torch.get_rng_state())


def test_what_is_in_training_mode_or_hooked_stays(images: Tensor) -> None:
    training = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    assert fuse(training, images) is training
    assert all(module.training for module in training.modules())
    hooked = nn.Sequential(*block(3, 4), nn.Flatten()).eval()
    hooked[0].register_forward_hook(lambda module, inputs, output: output + 1)
    assert [type(layer) for layer in fuse(hooked, images)] == [nn.Conv2d, Affine, nn.ReLU, nn.Flatten]
    torch.testing.assert_close(fuse(hooked, images)(images), hooked(images), rtol=0, atol=1e-5)


def test_pooling_before_rectifying_has_the_same_values_and_gradients() -> None:
    network, images = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()).eval(),
        torch.rand(6, 3, 8, 8),
    )
    fused = fuse(network, images)
    assert [type(layer) for layer in fused] == [nn.Conv2d, HalvingMaxPool, nn.ReLU, nn.Flatten]
    for form in (network, fused):
        variable = images.clone().requires_grad_()
        output = form(variable)
        results = (output, torch.autograd.grad(output.sum(), variable)[0])
        if form is network:
            expected = results
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("size", [(8, 6), (7, 8)])
def test_a_halving_pool_is_the_pool(size: tuple[int, int]) -> None:
    features, pool = torch.randn(3, 4, *size), nn.MaxPool2d(2)
    features[0, 0, 0, 0] = torch.nan
    for given in (features, features.clone().requires_grad_(), features.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(HalvingMaxPool(pool)(given), pool(given), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, ceil_mode=True)]
)
def test_other_pools_stay(pool: nn.MaxPool2d) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), trained_norm(4), pool, nn.Flatten()).eval()
    assert pool in list(fuse(network, torch.rand(4, 3, 8, 8)))


def test_a_network_that_would_change_is_taken_as_it_is(images: Tensor) -> None:
    class Nosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = block(3, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.body(images) * len(self.body)

    nosy = Nosy().eval()
    assert fuse(nosy, images) is nosy


def test_a_module_that_reads_the_weights_of_its_convolutions_is_fused_around_them() -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, features: Tensor) -> Tensor:
            return self.conv(features) / self.conv.weight.square().sum().sqrt()

    images = torch.rand(4, 3, 2, 2)
    fused = fuse(nn.Sequential(block(3, 8), Bounded(), nn.Flatten()).eval(), images)
    assert "ImageConv" in layers(fused)


class Silencer(nn.Identity):
    """Passes values on, and a thousandth of the gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach() + 0.001 * (images - images.detach())


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential()
        self.body.add_module("conv", nn.Conv2d(3, 4, 3, padding=1))
        self.body.add_module("norm", trained_norm(4))

    def forward(self, images: Tensor) -> Tensor:
        return self.body.norm(self.body.conv(images)).flatten(1)


def hooked() -> nn.Module:
    network = nn.Sequential(block(3, 4), nn.Identity(), nn.Flatten())
    network[1].register_full_backward_hook(lambda module, given, put_out: (2 * put_out[0],))
    return network


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(Silencer(), block(3, 4), nn.Flatten()),
        nn.Sequential(ByName()),
        hooked(),
        torch.fx.symbolic_trace(nn.Sequential(block(3, 4), nn.Flatten())),
    ],
    ids=["silencer", "by name", "backward hook", "traced"],
)
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_gradients_stay_whatever_the_network_does(network: nn.Module, images: Tensor) -> None:
    network = network.eval()
    fused = fuse(network, images)
    gradients = []
    for form in (network, fused):
        variable = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(form(variable).square().sum(), variable)[0])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(8, 8), (6, 10), (7, 8)])
@pytest.mark.parametrize("padding", ["same", "number"])
def test_image_convolution_has_the_gradients_of_the_convolution(
    size: int, shape: tuple[int, int], padding: str
) -> None:
    layer = nn.Conv2d(3, 5, size, padding="same" if padding == "same" else size // 2).double()
    results = []
    for form in (layer, ImageConv(layer)):
        images = torch.rand((2, 3, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        images.requires_grad_()
        output = form(images)
        (gradient,) = torch.autograd.grad((output.square() + output).sum(), images)
        results.append((output, gradient))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "shape"), [(3, (1, 1)), (3, (2, 2)), (5, (3, 3)), (3, (2, 1)), (3, (3, 3))])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_small_maps_is_a_matrix_product(size: int, shape: tuple[int, int], bias: bool) -> None:
    layer = nn.Conv2d(6, 5, size, padding=size // 2, bias=bias).double().requires_grad_(False)
    results = []
    for form in (layer, SmallMapConv(layer)):
        features = torch.rand((4, 6, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        features = features.contiguous(memory_format=torch.channels_last).requires_grad_()
        output = form(features)
        results.append((output, torch.autograd.grad((output.square() + output).sum(), features)[0]))
    computed = type(output.grad_fn.next_functions[0][0]).__name__
    assert (computed in {"AddmmBackward0", "MmBackward0"}) == ((size, *shape) in {(3, 1, 1), (3, 2, 2), (5, 3, 3)})
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_small_maps_first_seen_without_gradients_have_them_later() -> None:
    layer = SmallMapConv(nn.Conv2d(6, 5, 3, padding=1).requires_grad_(False))
    with torch.inference_mode():
        layer(torch.rand(2, 6, 2, 2))
    features = torch.rand((2, 6, 2, 2), requires_grad=True)
    assert torch.autograd.grad(layer(features).sum(), features)[0].abs().sum() > 0


def test_small_maps_first_seen_in_lower_precision_are_exact_later() -> None:
    layer, features = SmallMapConv(nn.Conv2d(6, 5, 3, padding=1)), torch.rand(2, 6, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        layer(features)
    torch.testing.assert_close(layer(features), layer.convolution(features), rtol=0, atol=1e-6)


def test_no_images_are_a_batch_of_small_maps_too() -> None:
    assert SmallMapConv(nn.Conv2d(6, 5, 3, padding=1))(torch.rand(0, 6, 2, 2)).shape == (0, 5, 2, 2)


@pytest.fixture
def shrinking() -> nn.Module:
    """Convolutions of an image, and of its 2 x 2 pixels."""
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(6, 5, 3, padding=1), nn.Flatten()]
    return nn.Sequential(*layers).eval()


def test_copies_have_weights_that_can_be_changed(shrinking: nn.Module, images: Tensor) -> None:
    fused = fuse(shrinking, images)
    assert {"ImageConv", "SmallMapConv"} <= set(layers(fused))
    copied = copy.deepcopy(fused)
    assert not {"ImageConv", "SmallMapConv"} & set(layers(copied))
    assert all(part.any() for part in torch.autograd.grad(copied(images).square().sum(), list(copied.parameters())))
    with torch.no_grad():
        for weight in copied.parameters():
            weight.zero_()
    assert not copied(images).any()
    torch.testing.assert_close(fused(images), shrinking(images), rtol=0, atol=1e-5)


def test_hooks_of_convolutions_are_called_also_when_they_come_later(shrinking: nn.Module, images: Tensor) -> None:
    fused, seen = fuse(shrinking, images), []
    for layer in fused.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, given, result: seen.append(result.shape[1]))
    fused(images)
    assert seen == [6, 5]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 3, 3, padding=1, groups=3),
        nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        nn.Conv2d(8, 4, 1),
    ],
    ids=str,
)
def test_other_convolutions_stay(layer: nn.Conv2d) -> None:
    network = nn.Sequential(layer, nn.ReLU()).eval()
    assert fuse(network, torch.rand(2, layer.in_channels, 8, 8)) is network
