import pytest
import torch

from symmetry_robustness.models import build_network, export

SMALL = ("model.fields=4", "model.trunk=[6,pool,8,pool,8]")


@pytest.mark.parametrize("group", ["C4", "C8", "D4"])
def test_invariant_head_ignores_quarter_turns(compose_model, group):
    torch.manual_seed(0)
    network = build_network(compose_model("fully_equivariant", "model.head=invariant", f"model.group={group}", *SMALL))
    images = torch.rand(4, 3, 32, 32)
    network(images)
    network.eval()
    logits = network(images)
    assert float(logits.detach().std(dim=0).min()) > 1e-3
    turned = [torch.rot90(images, quarter, dims=(2, 3)) for quarter in (1, 2, 3)]
    if group == "D4":
        turned.append(images.flip(-1))
    for network_in_use in (network, export(network)):
        for moved in turned:
            torch.testing.assert_close(network_in_use(moved), logits, rtol=0, atol=1e-4)


def test_whole_invariant_network_ignores_quarter_turns(compose_model):
    torch.manual_seed(0)
    network = export(
        build_network(compose_model("fully_equivariant_matched", "model.head=invariant", "model.group=C4"))
    )
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(torch.rot90(images, 1, dims=(2, 3))), network(images), rtol=0, atol=1e-4)


def test_released_head_does_not_ignore_them(compose_model):
    torch.manual_seed(0)
    network = build_network(compose_model("fully_equivariant", *SMALL)).eval()
    images = torch.rand(2, 3, 32, 32)
    difference = network(torch.rot90(images, 1, dims=(2, 3))) - network(images)
    assert float(difference.detach().abs().max()) > 1e-3
