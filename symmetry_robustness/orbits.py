"""Quarter turns and reflections of images: the symmetries that map the pixel grid onto itself and change no pixel."""

from typing import NamedTuple

import torch
from torch import Tensor

from symmetry_robustness.errors import UserError


class GridSymmetry(NamedTuple):
    """A reflection of left and right, or none, followed by quarter turns counter-clockwise."""

    turns: int = 0
    mirrored: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Transform images (..., H, W).

        Examples:
            >>> GridSymmetry(turns=1)(torch.tensor([[1, 2], [3, 4]])).tolist()
            [[2, 4], [1, 3]]
        """
        return torch.rot90(images.flip(-1) if self.mirrored else images, self.turns, (-2, -1))

    def undo(self, images: Tensor) -> Tensor:
        """Transform images (..., H, W) back.

        Examples:
            >>> symmetry, image = GridSymmetry(turns=1, mirrored=True), torch.tensor([[1, 2], [3, 4]])
            >>> symmetry.undo(symmetry(image)).tolist()
            [[1, 2], [3, 4]]
        """
        turned = torch.rot90(images, -self.turns, (-2, -1))
        return turned.flip(-1) if self.mirrored else turned


def grid_symmetries(rotations: bool = True, flips: bool = True) -> tuple[GridSymmetry, ...]:
    """The group of quarter turns, of reflections of left and right, or of both; the identity first.

    Args:
        rotations: by 90, 180 and 270 degrees.
        flips: left and right; with rotations also the other three reflections.

    Raises:
        UserError: without both there is nothing but the identity.

    Examples:
        >>> len(grid_symmetries()), len(grid_symmetries(rotations=False)), grid_symmetries()[0]
        (8, 2, GridSymmetry(turns=0, mirrored=False))
    """
    if not (rotations or flips):
        raise UserError("rotations=false and flips=false leave only the identity; set one of them to true")
    mirrors, turns = (False, True) if flips else (False,), range(4) if rotations else (0,)
    return tuple(GridSymmetry(turn, mirrored) for mirrored in mirrors for turn in turns)


def check_square(images: Tensor) -> None:
    """Refuse images that a quarter turn would give another shape.

    Args:
        images: (..., H, W).

    Raises:
        UserError: height and width differ.
    """
    if images.shape[-2] != images.shape[-1]:
        raise UserError(f"images of shape {tuple(images.shape)} cannot be turned; set rotations=false")
