"""Generators that are pure functions of a key, so that random numbers belong to an image rather than to a batch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# One generator for a whole batch, or one per image.
RandomSource = torch.Generator | Sequence[torch.Generator]


def keyed_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator that is a pure function of its key, for instance (seed, image index, restart).

    Examples:
        >>> torch.rand((), generator=keyed_generator(0, 7)) == torch.rand((), generator=keyed_generator(0, 7))
        tensor(True)
    """
    seed = int(np.random.SeedSequence([int(part) & 0xFFFFFFFFFFFFFFFF for part in key]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def sample(
    sampler: Callable[..., Tensor], shape: Sequence[int], source: RandomSource, device: torch.device | str
) -> Tensor:
    """Sample `shape` from `torch.rand` or the like; a sequence of generators gives each image its own draw."""
    if isinstance(source, torch.Generator):
        return sampler(tuple(shape), generator=source, device=source.device).to(device)
    rows = [sampler(tuple(shape[1:]), generator=generator, device=generator.device) for generator in source]
    return torch.stack(rows).to(device)
