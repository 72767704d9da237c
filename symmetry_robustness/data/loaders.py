"""Whole batches gathered from uint8 tensors in memory; no workers, no per-image Python."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Split:
    """Images that belong together, as rows of a larger tensor rather than as copies.

    Args:
        name: Its name in tables and loggers.
        images: uint8 (M, 3, H, W), the tensor of all splits of the same file.
        labels: int64 (M,).
        indices: int64 (N,), the rows of this split in ascending order.
        transform: Changes images, uint8 (B, 3, H, W), as they are gathered, so that transformed test sets cost no
            memory; None leaves them as they are.
    """

    name: str
    images: Tensor
    labels: Tensor
    indices: Tensor
    transform: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, positions: Tensor) -> Batch:
        """Images and labels at positions 0..N-1 of the split, copied in one operation each."""
        rows = self.indices[positions]
        images = self.images[rows]
        return images if self.transform is None else self.transform(images), self.labels[rows]


def check_split(split: Split, what: str, num_classes: int, image_size: int) -> Split:
    """Check the images and labels that a data module returned; arrays become tensors, whole-number labels int64.

    Args:
        split: As returned, of any content.
        what: Where it came from, for messages.
        num_classes: Labels lie below it.
        image_size: Height and width.

    Raises:
        UserError: Images are not uint8 (M, 3, image_size, image_size), labels not whole numbers (M,) of the classes,
            indices no rows of them, or there are none.
    """
    images, labels, indices = (
        _as_tensor(getattr(split, name), f"{what}: {name}") for name in ("images", "labels", "indices")
    )
    shape = (3, image_size, image_size)
    if images.dtype != torch.uint8:
        remedy = "return torch.uint8 in 0 … 255, as in (255 * images).round().to(torch.uint8) for images in [0, 1]"
        raise UserError(f"{what}: images are {images.dtype}; {remedy}")
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        remedy = (
            "return images.permute(0, 3, 1, 2)"
            if images.dim() == 4 and images.shape[-1] == 3
            else "return colour images of that size, or set data.image_size"
        )
        raise UserError(
            f"{what}: images have shape {tuple(images.shape)}, expected (N, 3, {image_size}, {image_size}); {remedy}"
        )
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise UserError(f"{what}: labels are {labels.dtype}; return the numbers of the classes as torch.int64")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{what}: {len(images)} images have labels of shape {tuple(labels.shape)}; return one for each image"
        )
    labels = labels.to(torch.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"{what}: labels are {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; set "
            "data.num_classes, or number the classes from 0"
        )
    if not len(images):
        raise UserError(f"{what}: there are no images; return at least one")
    rows = indices.to(torch.int64)
    if rows.dim() != 1 or (len(rows) and not 0 <= rows.min() <= rows.max() < len(images)):
        raise UserError(f"{what}: indices must be rows (N,) of its {len(images)} images; torch.arange takes all")
    return replace(split, images=images, labels=labels, indices=rows)


def _as_tensor(values: object, what: str) -> Tensor:
    if isinstance(values, np.ndarray):
        try:
            # torch takes no reversed or read-only arrays
            return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
        except TypeError as error:
            raise UserError(f"{what} are an array of {values.dtype}; return numbers") from error
    if not isinstance(values, Tensor):
        raise UserError(f"{what} are a {type(values).__name__}; return a torch.Tensor")
    if values.layout is not torch.strided or values.is_nested or values.device.type != "cpu":
        kind = "nested" if values.is_nested else f"{values.layout}, on {values.device}"
        raise UserError(f"{what} must be a dense tensor on the CPU, got one that is {kind}; return torch.strided there")
    return values


def training_order(size: int, seed: int, epoch: int) -> Tensor:
    """The permutation of range(size) of an epoch, (size,) int64."""
    return torch.randperm(size, generator=keyed_generator(seed, epoch))


def rank_slice(size: int, rank: int, world_size: int) -> slice:
    """The rows of a batch that one rank takes: contiguous, disjoint, together all, sizes at most one apart."""
    least, rest = divmod(size, world_size)
    start = rank * least + min(rank, rest)
    return slice(start, start + least + (rank < rest))


def evaluation_slices(size: int, batch_size: int, rank: int, world_size: int) -> list[slice]:
    """The batches of one rank in data order; every rank gets the same number of them and none is empty.

    Args:
        size: Number of images, at least `world_size`.
        batch_size: Largest number of images per step, summed over all ranks.
        rank: This process.
        world_size: Number of processes.
    """
    rows = rank_slice(size, rank, world_size)
    largest, smallest = -(-size // world_size), size // world_size
    # The smallest part bounds the number of batches: a rank without a batch would leave the others waiting.
    count = min(-(-largest // max(1, batch_size // world_size)), smallest)
    parts = [rank_slice(rows.stop - rows.start, index, count) for index in range(count)]
    return [slice(rows.start + part.start, rows.start + part.stop) for part in parts]


class _Loader:
    """Lightning's view of a loader, and the check of the number of ranks.

    Args:
        split: The images.
        batch_size: Images per step, summed over all ranks; the largest number of them in an evaluation.
        rank: This process.
        world_size: Number of processes.
        pin_memory: Whether batches lie in page-locked memory, for asynchronous copies to a GPU.
    """

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


class TrainLoader(_Loader):
    """Shuffled batches of (images uint8, labels int64); their order follows from (seed, epoch, position) alone.

    A step's batch is cut from the epoch's permutation first and divided among the ranks afterwards, so the images of a
    step do not depend on the number of ranks. The last batch may be smaller; it is dropped if it cannot give every
    rank an image.

    Args:
        split: The images.
        batch_size: Images per step, summed over all ranks.
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
                f"data.batch_size={batch_size} is divided among {world_size} processes; use at least one image for each"
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


class EvaluationLoader(_Loader):
    """Batches of (images uint8, labels int64) in data order, without padding or duplicates.

    Each rank reads one contiguous part; all ranks have equally many batches. Arguments as in `_Loader`.

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
