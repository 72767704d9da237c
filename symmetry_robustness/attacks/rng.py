"""Random numbers that belong to an example rather than to a batch, so that results do not depend on the batching."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

RandomSource = torch.Generator | Sequence[torch.Generator]


def example_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator that is a pure function of its key, for instance (seed, example index, restart)."""
    seed = int(np.random.SeedSequence([int(part) & 0xFFFFFFFFFFFFFFFF for part in key]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def draw(
    sampler: Callable[..., Tensor], shape: Sequence[int], source: RandomSource, device: torch.device | str
) -> Tensor:
    """Draw `shape` from `torch.rand` or `torch.randn`; a sequence of generators gives each image its own draw."""
    if isinstance(source, torch.Generator):
        return sampler(tuple(shape), generator=source, device=source.device).to(device)
    rows = [sampler(tuple(shape[1:]), generator=generator, device=generator.device) for generator in source]
    return torch.stack(rows).to(device)
