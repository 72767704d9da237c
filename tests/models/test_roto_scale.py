import pytest
import torch

from symmetry_robustness.models import build_network, export

SMALL = ("model.fields=4", "model.trunk=[6,pool,8,pool,8]")


@pytest.mark.parametrize("overrides", [(), ("+model.scale_extent=2",)])
def test_quarter_turns_leave_the_logits_alone(compose_model, overrides):
    torch.manual_seed(0)
    network = build_network(compose_model("roto_scale", *overrides, *SMALL))
    images = torch.rand(4, 3, 32, 32)
    network(images)
    network.eval()
    logits = network(images)
    assert float(logits.detach().std(dim=0).min()) > 1e-3
    for network_in_use in (network, export(network)):
        for quarter in (1, 2, 3):
            turned = network_in_use(torch.rot90(images, quarter, dims=(2, 3)))
            torch.testing.assert_close(turned, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["roto_scale", "roto_scale_matched"])
def test_so_they_do_in_the_whole_network(compose_model, name):
    torch.manual_seed(0)
    network = export(build_network(compose_model(name)))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(torch.rot90(images, 1, dims=(2, 3))), network(images), rtol=0, atol=1e-4)


def test_scales_without_turns_are_a_network_too(compose_model):
    torch.manual_seed(0)
    network = build_network(compose_model("roto_scale", "model.rotations=1", *SMALL)).eval()
    assert network.stem[0].out_channels == 4 * 3
    images = torch.rand(2, 3, 32, 32)
    difference = network(torch.rot90(images, 1, dims=(2, 3))) - network(images)
    assert float(difference.detach().abs().max()) > 1e-3
