"""Generators that are pure functions of a key, so that random numbers belong to an image rather than to a batch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# Constants of SplitMix64, as signed integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)

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


def draw_key(shape: Sequence[int], generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Keys for `hashed_uniform`, int64 of a shape; a sampler for `sample`."""
    return torch.randint(2**62, tuple(shape), generator=generator, device=device)


def hashed_uniform(key: Tensor, position: Tensor, count: int) -> Tensor:
    """Uniform numbers (B, count) in [0, 1) that are a pure function of key and position, both (B,) int64.

    For draws in a loop over a batch, where a generator for each image and step would take longer than the network.
    Calls with one key must agree in `count`. Source: Steele et al. 2014, Fast splittable pseudorandom number
    generators, figure 17.

    Examples:
        >>> key, position = torch.tensor([7, 8]), torch.tensor([0, 0])
        >>> bool((hashed_uniform(key, position, 3)[1] == hashed_uniform(key[1:], position[1:], 3)[0]).all())
        True
    """
    state: Tensor = key[:, None] + (position[:, None] * count + torch.arange(1, count + 1, device=key.device)) * _GOLDEN
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1]), (31, 1)):
        state = (state ^ _shifted(state, shift)) * factor
    return _shifted(state, 40).float() / 2**24


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift to the right that moves zeros in, whatever the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
