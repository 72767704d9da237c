"""Two ranks with uneven shares normalise, learn and remember as one process does with the whole batch."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness import build_network, load_config
from symmetry_robustness.layers.fields import InnerBatchNorm, VectorBatchNorm
from symmetry_robustness.models import export
from symmetry_robustness.training.sync_batch_norm import SyncedBatchNorm
from tests import fork_server

RANK = """
import os, sys
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from symmetry_robustness.training.sync_batch_norm import SyncedBatchNorm

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
network, images, splits = torch.load(f"{folder}/whole.pt", weights_only=False)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
share = images.split(splits)[rank].requires_grad_()
network = SyncedBatchNorm().apply(network)
parallel = DistributedDataParallel(network, broadcast_buffers=False)
outputs = []
for _ in range(2):  # a second time with the statistics of the first
    outputs.append(parallel(share))
    weight = len(share) * 2 / len(images)
    (weight * outputs[-1].square().flatten(1).sum(1).mean()).backward()
gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
# Of images, it is the gradient of the sum of both ranks' losses; DDP minimises their mean.
torch.save((outputs[-1].detach(), gradients, dict(network.named_buffers()), share.grad / 2), f"{folder}/{rank}.pt")
distributed.barrier()
os._exit(0)  # now and then torch 2.13 aborts while it takes the group down
"""


class Cubed(nn.Module):
    """So that gradients through the statistics do not cancel."""

    def forward(self, features: Tensor) -> Tensor:
        return features**3 + features


NETWORKS = {
    "plain": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Cubed(), nn.Flatten(), nn.Linear(288, 2)),
    "without affine": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False, momentum=None), Cubed()
    ),
    "fields": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), InnerBatchNorm(2, 4), Cubed(), nn.Conv2d(8, 2, 3)),
    "vectors": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), VectorBatchNorm(4), Cubed(), nn.Conv2d(8, 2, 3)),
    "standard_4layer": lambda: build_network(load_config("train", ["model=standard_4layer"])),
    "one dimension": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4), Cubed()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_two_ranks_are_one(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]().double()
    size = 32 if name == "standard_4layer" else 8
    images = 5 + torch.randn(7, 3, size, size, dtype=torch.float64) * torch.arange(1, 8)[:, None, None, None]
    splits = [5, 2]
    torch.save((network, images, splits), tmp_path / "whole.pt")
    ranks = [fork_server.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    images.requires_grad_()
    for _ in range(2):
        output = network(images)
        output.square().flatten(1).sum(1).mean().backward()
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([found for found, _, _, _ in results]), output.detach())
    torch.testing.assert_close(torch.cat([of_images for _, _, _, of_images in results]), images.grad)
    for _, gradients, buffers, _ in results:
        torch.testing.assert_close(gradients, {name: p.grad for name, p in network.named_parameters()})
        torch.testing.assert_close(buffers, dict(network.named_buffers()))


def test_layers_stay_what_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), InnerBatchNorm(2, 4), nn.BatchNorm2d(8), VectorBatchNorm(4))
    images = torch.rand(2, 3, 8, 8)
    network(images)
    kinds = [type(module) for module in network.modules()]
    shared = SyncedBatchNorm().apply(copy.deepcopy(network))
    assert all(isinstance(module, kind) for module, kind in zip(shared.modules(), kinds, strict=True))
    assert [type(module) for module in shared.modules()] != kinds
    assert shared.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(shared.eval()(images), network.eval()(images), rtol=0, atol=0)
    assert [type(module) for module in SyncedBatchNorm().revert(shared).modules()] == kinds


def test_exported_copies_wait_for_no_one() -> None:
    """Attacks run on each rank's own images, and some protocols in training mode."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), InnerBatchNorm(2, 4), nn.BatchNorm2d(8), VectorBatchNorm(4))
    shared = SyncedBatchNorm().apply(network)
    exported = export(shared).train()  # would fail in training mode, as there is no group
    assert {type(module) for module in exported.modules()} == {nn.Sequential, nn.Conv2d, nn.BatchNorm2d}
    exported(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="process group"):
        shared.train()(torch.rand(2, 3, 8, 8))
