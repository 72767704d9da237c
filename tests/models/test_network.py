import copy

import pytest
import torch
from torch import nn

from symmetry_robustness.models import build_network, export

SMALL = ("model.trunk=[pool,8,pool,8]",)
SMALL_EQUIVARIANT = ("model.trunk=[pool,4,pool,4]", "model.fields=2")
EQUIVARIANT = ("fully_equivariant", "invariant", "invariant_d4", "invariant_vector", "roto_scale")


def small(name: str) -> tuple[str, ...]:
    return SMALL_EQUIVARIANT if name in EQUIVARIANT else SMALL


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("parallel_rotation_scale", ()),
        ("parallel_rotation_scale", ("model/branch=scale_equivariant",)),
        ("weighted", ()),
        ("cascaded", ()),
        *((name, ()) for name in EQUIVARIANT),
        ("roto_scale", ("+model.scale_extent=2",)),
    ],
)
def test_export_agrees_after_any_sequence_of_changes(compose_model, name, overrides):
    torch.manual_seed(0)
    network = build_network(compose_model(name, *overrides, *small(name)))
    images = torch.rand(4, 3, 32, 32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    other = copy.deepcopy(network.state_dict())

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), torch.arange(4)).backward()
        optimizer.step()

    def load() -> None:
        network.load_state_dict(other)

    changes = {"step": step, "eval": network.eval, "load": load, "train": network.train}
    for change in ("step", "eval", "load", "eval", "step", "train", "load", "step", "eval", "eval", "step"):
        changes[change]()
        exported = export(network)
        with torch.no_grad():
            mode = network.training
            torch.testing.assert_close(exported(images), network.eval()(images), rtol=0, atol=1e-5)
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(exported(images), network(images), rtol=1e-2, atol=1e-2)
            network.train(mode)
        with torch.enable_grad():  # as an attack sees them
            torch.testing.assert_close(exported(images), network.eval()(images), rtol=0, atol=1e-5)
            network.train(mode)


def test_export_leaves_the_network_alone(compose_model):
    network = build_network(compose_model("parallel_rotation_scale", *SMALL)).train()
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    before, state = copy.deepcopy(network), torch.get_rng_state()
    exported = export(network)
    assert torch.equal(state, torch.get_rng_state())
    assert network.training
    assert not any(module.training for module in exported.modules())
    for (name, parameter), twin in zip(network.named_parameters(), before.parameters(), strict=True):
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert torch.equal(parameter, twin), name
    for parameter in exported.parameters():
        parameter.fill_(0.0)  # shares nothing
    assert all(torch.equal(left, right) for left, right in zip(network.parameters(), before.parameters(), strict=True))


def test_exported_network_gives_input_gradients(compose_model):
    exported = export(build_network(compose_model("parallel_rotation_scale", *SMALL)))
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(exported(images).sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["standard", "parallel_rotation_scale", *EQUIVARIANT])
def test_channels_last_and_bfloat16_agree(compose_model, name):
    torch.manual_seed(0)
    network = build_network(compose_model(name, *small(name))).eval()
    images = torch.rand(2, 3, 32, 32)
    logits = network(images)
    network.to(memory_format=torch.channels_last)
    last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(last), logits, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(last).float(), logits, rtol=0.02, atol=0.02)


def test_weighted_stem_starts_as_the_mean(compose_model):
    stem = build_network(compose_model("weighted", *SMALL)).stem.eval()
    images = torch.rand(2, 3, 32, 32)
    mean = (stem.conv(images) + stem.projection(stem.rotation(images))) / 2
    torch.testing.assert_close(stem(images), mean.relu())


def test_parallel_stem_concatenates_its_branches_in_order(compose_model):
    stem = build_network(compose_model("parallel_rotation", *SMALL)).stem.eval()
    images = torch.rand(2, 3, 32, 32)
    features = stem(images)
    torch.testing.assert_close(features[:, :16], stem.branches["conv"](images))
    torch.testing.assert_close(features[:, 16:], stem.branches["rotation"](images))


@pytest.mark.parametrize("pooled", [False, True])
def test_scale_stem_pools_over_scales_if_asked(compose_model, pooled):
    branch = ("model/branch=scale_equivariant", f"model.stem.branches.scale.pooled={str(pooled).lower()}")
    stem = build_network(compose_model("parallel_scale", *branch, *SMALL)).eval().stem.branches["scale"]
    images = torch.rand(2, 3, 32, 32)
    responses = stem[0](images)
    expected = responses.unflatten(1, (3, 16)).amax(dim=1) if pooled else responses
    assert stem.out_channels == expected.shape[1]
    torch.testing.assert_close(stem(images), expected.relu() / (1 + 1e-5) ** 0.5)  # statistics as at the start


@pytest.mark.parametrize("name", ["parallel_rotation_scale", *EQUIVARIANT])
def test_compiles_into_one_graph(compose_model, name):
    torch._dynamo.reset()  # each network counts as a recompilation of the same code
    network = build_network(compose_model(name, *small(name))).eval()
    images = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), network(images), rtol=0, atol=1e-5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
        torch.testing.assert_close(compiled(images), network(images), rtol=0, atol=1e-5)
