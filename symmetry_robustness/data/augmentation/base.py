"""The contract of augmentations, and the division of their draws among the ranks."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from symmetry_robustness.errors import UserError


class Augmentation(ABC):
    """Changes each training image by numbers of its own.

    Numbers are drawn for the whole batch on the CPU and divided among the ranks, so that an image is changed in the
    same way on every device and with any number of ranks.
    """

    @abstractmethod
    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the random numbers of a batch.

        Args:
            size: Images of the batch over all ranks.
            generator: On the CPU.

        Returns:
            Tensors with one row for each image.
        """

    @abstractmethod
    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Change images.

        Args:
            images: float32 in [0, 1], (B, C, H, W), on any device.
            draws: The rows of `draw` that belong to these images, on the CPU.

        Returns:
            float32 in [0, 1], (B, C, H, W).
        """


@final
class Augmentations:
    """Several augmentations, one after the other.

    Args:
        steps: By names of your choice, in their order.

    Raises:
        UserError: if one is no augmentation.
    """

    def __init__(self, **steps: Augmentation) -> None:
        for name, step in steps.items():
            if not isinstance(step, Augmentation):
                raise UserError(f"data.augmentation.{name} is no augmentation; derive its class from Augmentation")
        self.steps = steps

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        rows: slice = slice(None),
        batch_size: int | None = None,
    ) -> Tensor:
        """Augment one rank's rows of a batch.

        Args:
            images: float32 in [0, 1], (B, C, H, W), the rows `rows` of a batch that is divided among the ranks.
            generator: On the CPU, in the same state on every rank.
            rows: The rows of this rank.
            batch_size: Images of the batch over all ranks; None if these are all.

        Returns:
            float32 in [0, 1], (B, C, H, W).
        """
        for step in self.steps.values():
            draws = step.draw(len(images) if batch_size is None else batch_size, generator)
            images = step.apply(images, *(drawn[rows] for drawn in draws))
        return images
