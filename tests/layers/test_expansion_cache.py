"""Kernels kept for a period, where comparing weights is not for nothing: as on GPUs, on a device that has no values."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.layers.expansion_cache import ExpandedKernelCache, frozen_weights


class Doubling(nn.Module):
    """Twice its weight, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, device="meta"))
        self.kept = ExpandedKernelCache()
        self.expansions = 0

    def forward(self) -> Tensor:
        def expand(weight: Tensor) -> tuple[Tensor]:
            self.expansions += 1
            return (2 * weight,)

        return self.kept.get(self.weight, expand)[0]


def test_kept_for_a_period() -> None:
    layer = Doubling()
    with frozen_weights("first"):
        layer().sum().backward()
        layer()
    with frozen_weights("first"), torch.inference_mode():
        layer()
    assert layer.expansions == 1
    with frozen_weights("second"):
        layer()
    assert layer.expansions == 2


def test_outside_of_periods_nothing_is_kept() -> None:
    layer = Doubling()
    layer()
    layer()
    with frozen_weights("first"):
        layer()
    layer()
    assert layer.expansions == 4


@pytest.mark.parametrize("change", ["step", "load", "dtype"])
def test_a_change_that_counts_is_seen_within_a_period(change: str) -> None:
    layer = Doubling()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with frozen_weights("first"):
        layer().sum().backward()
        if change == "step":
            optimizer.step()
        elif change == "load":
            layer.load_state_dict(layer.state_dict())
        else:
            layer.bfloat16()
        assert layer().dtype == layer.weight.dtype
    assert layer.expansions == 2
