"""Shrinking images without aliasing, by any factor."""

from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import lanczos_weights


def shrink(images: Tensor, factor: float) -> Tensor:
    """Shrink images about their centre, what is too fine for the smaller grid filtered out before.

    Args:
        images: (…, H, W).
        factor: at least 1; a pixel of the result is so many pixels of the images wide.

    Returns:
        (…, H // factor, W // factor). Pixels nearer to the border than 8 · factor pixels know one side less well.

    Raises:
        UserError: a factor below 1, or nothing would be left.
    """
    height, width = images.shape[-2:]
    if not 1 <= factor <= min(height, width):
        raise UserError(
            f"factor must be between 1 and {min(height, width)}, got {factor}; to enlarge is another matter"
        )
    rows, columns = lanczos_weights(height, factor).to(images), lanczos_weights(width, factor).to(images)
    return rows @ images @ columns.T
