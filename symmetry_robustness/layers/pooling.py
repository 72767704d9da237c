"""Pools over pixels that commute with the group, and pools over the group whose output it leaves unchanged."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.fields import direct_sum, field_length
from symmetry_robustness.layers.groups import FieldType
from symmetry_robustness.layers.validation import require_positive

Pool = Literal["max", "average"]


def field_pool(field_type: FieldType, kind: Pool) -> nn.Module:
    """The pool over 2×2 pixels, see `TilingPool`.

    Raises:
        UserError: no such pool, or not for these fields.
    """
    if kind == "max" and not field_type.is_permuted:
        raise UserError(f"pool max does not commute with the turns of {field_type.representation}; choose average")
    return TilingPool(kind)


def group_pool(field_type: FieldType) -> nn.Module:
    """Invariant of each field, a trivial field for each part; see `GroupPool` and `NormPool`."""
    return direct_sum(field_type, lambda part: NormPool(part.size) if part.frequency else GroupPool(part.size))


class NormPool(nn.Module):
    """Length of each field, which the group does not change: a trivial field.

    Args:
        size: channels per field.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, size · fields, H, W) to (B, fields, H, W)."""
        return field_length(features, self.size)


class GroupPool(nn.Module):
    """Maximum over the channels of each regular field, which makes it a trivial field.

    Args:
        order: channels per field, the number of group elements.
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, order · fields, H, W) to (B, fields, H, W)."""
        batch, channels, height, width = features.shape
        return features.reshape(batch, self.order, channels // self.order, height, width).amax(dim=1)


class TilingPool(nn.Module):
    """Pool over windows that tile the image, so that quarter turns and reflections turn window onto window.

    Args:
        kind: "max" or "average"; the maximum of each channel only where the group permutes them.
        window: height and width of a window, and the stride.

    Raises:
        UserError: no such kind, or no positive window.
    """

    def __init__(self, kind: Pool, window: int = 2) -> None:
        super().__init__()
        require_positive(window=window)
        if kind not in ("max", "average"):
            raise UserError(f"pool must be max or average, got {kind!r}; choose one of them")
        self.kind, self.window = kind, window

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / window, W / window).

        Raises:
            UserError: windows do not tile the image, which would break the symmetry.
        """
        require_tiling(features.shape[-2], self.window)
        require_tiling(features.shape[-1], self.window)
        return F.max_pool2d(features, self.window) if self.kind == "max" else F.avg_pool2d(features, self.window)

    def export(self) -> nn.Module:
        """Return the plain pool."""
        return nn.MaxPool2d(self.window) if self.kind == "max" else nn.AvgPool2d(self.window)


def require_tiling(size: int, window: int) -> None:
    """Check that windows tile a row of pixels.

    Raises:
        UserError: they do not.
    """
    if size % window:
        raise UserError(
            f"windows of {window}×{window} do not tile {size} pixels, which breaks the symmetry of quarter turns; "
            f"choose an image_size that leaves a multiple of {window} at each pool, or fewer pools"
        )
