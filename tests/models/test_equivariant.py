import pytest
import torch
from torch import nn

from symmetry_robustness.layers.groups import FieldType, Group
from symmetry_robustness.models import build_network, export

SMALL = ("model.fields=4", "model.trunk=[6,pool,8,pool,8]")
FIELDS = {
    "regular": (),
    "trivial": ("model.representation=trivial",),
    "vectors": (
        "model.representation=trivial+irrep1",
        "model.nonlinearity=norm",
        "model.pool=average",
    ),
    "regular by norm": ("model.nonlinearity=norm",),
}


def blotches() -> torch.Tensor:
    """Four images (4, 3, 32, 32) that differ in more than noise, which averages out."""
    return torch.rand(4, 3, 4, 4).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def settle(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """The network in evaluation mode, with the statistics of the images."""
    for module in network.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.no_grad():
        network(images)
    return network.eval()


@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
@pytest.mark.parametrize("fields", FIELDS)
def test_invariant_head_ignores_the_exact_elements(compose_model, group, fields):
    torch.manual_seed(0)
    overrides = ("model.head=invariant", f"model.group={group}", *(f"+{part}" for part in FIELDS[fields]), *SMALL)
    network = build_network(compose_model("fully_equivariant", *overrides))
    images = blotches()
    settle(network, images)
    logits = network(images)
    assert float(logits.detach().std(dim=0).min()) > 1e-3
    for network_in_use in (network, export(network)):
        for element in Group(group).exact_elements:
            moved = Group(group).transform_images(images, element)
            torch.testing.assert_close(network_in_use(moved), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["invariant", "invariant_d4", "invariant_vector"])
def test_whole_invariant_network_ignores_the_exact_elements(compose_model, name):
    torch.manual_seed(0)
    network = build_network(compose_model(name))
    images = blotches()
    group = Group(network.field_types["stem"].group)
    with torch.no_grad():
        network = export(settle(network, images))
        logits = network(images)
        assert float(logits.std(dim=0).min()) > 1e-3
        for element in group.exact_elements:
            torch.testing.assert_close(network(group.transform_images(images, element)), logits, rtol=0, atol=1e-4)


def test_released_head_does_not_ignore_them(compose_model):
    torch.manual_seed(0)
    network = build_network(compose_model("fully_equivariant", *SMALL)).eval()
    images = torch.rand(2, 3, 32, 32)
    difference = network(torch.rot90(images, 1, dims=(2, 3))) - network(images)
    assert float(difference.detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["fully_equivariant", "invariant_d4", "invariant_vector"])
@pytest.mark.parametrize("exported", [False, True])
def test_every_part_acts_as_it_says(compose_model, name, exported):
    network = build_network(compose_model(name, *SMALL))
    images = torch.rand(2, 3, 32, 32)
    types = network.field_types
    network = settle(network, images)
    network = export(network) if exported else network
    assert list(types) == ["normalize", "stem", *(f"trunk.{number}" for number in range(5))]

    def features(given: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        handles = [
            network.get_submodule(part).register_forward_hook(
                lambda _, __, output, part=part: found.__setitem__(part, output.detach())
            )
            for part in types
        ]
        network(given)
        for handle in handles:
            handle.remove()
        return found

    group, still = Group(types["stem"].group), features(images)
    for element in group.exact_elements:
        for part, moved in features(group.transform_images(images, element)).items():
            torch.testing.assert_close(moved, types[part].act(still[part], element), rtol=0, atol=1e-5)


def test_the_type_of_a_part_has_its_channels(compose_model):
    network = build_network(compose_model("invariant_vector", *SMALL))
    assert network.field_types["trunk.4"] == FieldType("C8", "trivial+irrep1+irrep2+irrep3", 8)
    assert network.trunk[4][0].out_type == network.field_types["trunk.4"]
