"""Whole batches gathered from uint8 tensors in memory; no workers, no per-image Python."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symmetry_robustness.errors import UserError

Batch = tuple[Tensor, Tensor]


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on every number of the key; the global generator is not touched."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


@dataclass(frozen=True)
class Split:
    """Images that belong together, as rows of a larger tensor rather than as copies.

    Args:
        name: What tables and loggers call it.
        images: uint8 (M, 3, H, W), shared with the other splits of the same file.
        labels: int64 (M,).
        indices: int64 (N,), the rows of this split in ascending order.
        show: Changes the images, uint8 (B, 3, H, W), as they are gathered, so that views of them cost no memory; None
            leaves them as they are.
    """

    name: str
    images: Tensor
    labels: Tensor
    indices: Tensor
    show: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, positions: Tensor) -> Batch:
        """Images and labels at positions 0..N-1 of the split, copied in one operation each."""
        rows = self.indices[positions]
        images = self.images[rows]
        return images if self.show is None else self.show(images), self.labels[rows]


def training_order(size: int, seed: int, epoch: int) -> Tensor:
    """The permutation of range(size) that an epoch walks through, (size,) int64."""
    return torch.randperm(size, generator=seeded_generator(seed, epoch))


def rank_slice(size: int, rank: int, world_size: int) -> slice:
    """The rows of a batch that one rank takes: contiguous, disjoint, together all, sizes at most one apart."""
    share, rest = divmod(size, world_size)
    start = rank * share + min(rank, rest)
    return slice(start, start + share + (rank < rest))


def evaluation_slices(size: int, batch_size: int, rank: int, world_size: int) -> list[slice]:
    """The batches of one rank in data order; every rank gets the same number of them and none is empty.

    Args:
        size: Number of images, at least `world_size`.
        batch_size: Largest number of images per step, summed over all ranks.
        rank: This process.
        world_size: Number of processes.
    """
    share = rank_slice(size, rank, world_size)
    largest, smallest = -(-size // world_size), size // world_size
    # The smallest share bounds the number of batches: a rank without a batch would leave the others waiting.
    count = min(-(-largest // max(1, batch_size // world_size)), smallest)
    parts = [rank_slice(share.stop - share.start, index, count) for index in range(count)]
    return [slice(share.start + part.start, share.start + part.stop) for part in parts]


class _Batches:
    """What both loaders share: Lightning's view of a loader, and the check of the number of ranks."""

    batch_sampler = None  # Lightning reads it beside `sampler`

    def __init__(self, split: Split, batch_size: int, rank: int, world_size: int, pin_memory: bool) -> None:
        if len(split) < world_size:
            raise UserError(
                f"split {split.name!r} has {len(split)} images for {world_size} processes; use fewer processes"
            )
        self.split, self.batch_size = split, batch_size
        self.rank, self.world_size, self.pin_memory = rank, world_size, pin_memory
        self.sampler = self  # where Lightning looks for set_epoch

    def _batch(self, positions: Tensor) -> Batch:
        images, labels = self.split.gather(positions)
        return (images.pin_memory(), labels.pin_memory()) if self.pin_memory else (images, labels)


class TrainingBatches(_Batches):
    """Shuffled batches of (images uint8, labels int64); their order follows from (seed, epoch, position) alone.

    A step's batch is cut from the epoch's permutation first and shared over the ranks afterwards, so the images of a
    step do not depend on the number of ranks. The last batch may be smaller; it is dropped if it cannot give every
    rank an image.

    Args:
        split: The training images.
        batch_size: Images per optimiser step, summed over all ranks.
        seed: Of the order.
        rank: This process.
        world_size: Number of processes.
        pin_memory: Whether batches lie in page-locked memory, for asynchronous copies to a GPU.

    Raises:
        UserError: if there are fewer images, or a smaller batch, than processes.
    """

    def __init__(
        self, split: Split, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> None:
        super().__init__(split, batch_size, rank, world_size, pin_memory)
        if batch_size < world_size:
            raise UserError(
                f"data.batch_size={batch_size} is shared by {world_size} processes; use at least one image for each"
            )
        self.seed = seed
        self.epoch = 0
        self.position = 0  # number of batches handed out in this epoch
        self._resume_at = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        start, self._resume_at = self._resume_at, 0
        order = training_order(len(self.split), self.seed, self.epoch)
        for position in range(start, len(self)):
            batch = order[position * self.batch_size : (position + 1) * self.batch_size]
            self.position = position + 1
            yield self._batch(batch[rank_slice(len(batch), self.rank, self.world_size)])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; a position loaded for another epoch is forgotten."""
        if epoch != self.epoch:
            self.epoch, self.position, self._resume_at = epoch, 0, 0

    def batch_rows(self, position: int) -> tuple[slice, int]:
        """This rank's rows of the batch at a position, and the size of that batch over all ranks."""
        size = min(self.batch_size, len(self.split) - position * self.batch_size)
        return rank_slice(size, self.rank, self.world_size), size

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands and what its order depends on; the same on every rank."""
        order = {"seed": self.seed, "size": len(self.split), "batch_size": self.batch_size}
        return {"epoch": self.epoch, "position": self.position, **order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin at the position of the state.

        Raises:
            UserError: if the state belongs to another order, which could not be continued.
        """
        for name, value in self.state_dict().items():
            if name not in ("epoch", "position") and state[name] != value:
                raise UserError(
                    f"the checkpoint was written with {name}={state[name]} of the training data, the configuration "
                    f"says {value}; continue with the same data settings or start a new run"
                )
        self.epoch = state["epoch"]
        self.position = self._resume_at = state["position"]


class EvaluationBatches(_Batches):
    """Batches of (images uint8, labels int64) in data order, without padding or duplicates.

    Each rank walks through one contiguous share; all ranks have equally many batches.

    Args:
        split: The images to evaluate.
        batch_size: Largest number of images per step, summed over all ranks.
        rank: This process.
        world_size: Number of processes.
        pin_memory: Whether batches lie in page-locked memory, for asynchronous copies to a GPU.

    Raises:
        UserError: if there are fewer images than processes.
    """

    def __init__(
        self, split: Split, batch_size: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> None:
        super().__init__(split, batch_size, rank, world_size, pin_memory)
        self._slices = evaluation_slices(len(split), batch_size, rank, world_size)

    def __len__(self) -> int:
        return len(self._slices)

    def __iter__(self) -> Iterator[Batch]:
        for part in self._slices:
            yield self._batch(torch.arange(part.start, part.stop))
