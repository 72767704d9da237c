"""Validation of settings that several layers have."""

from symmetry_robustness.errors import UserError


def require_positive(**settings: int) -> None:
    """Check that every setting is a positive whole number.

    Raises:
        UserError: a setting is not; names it.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} must be a positive whole number, got {value!r}; choose 1 or more")


def require_odd(kernel_size: int) -> None:
    """Check that a kernel has a centre, without which no convolution keeps the size of its input.

    Raises:
        UserError: the size is even, or no positive whole number.
    """
    require_positive(kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise UserError(f"kernel_size must be odd, got {kernel_size}; choose {kernel_size - 1} or {kernel_size + 1}")
