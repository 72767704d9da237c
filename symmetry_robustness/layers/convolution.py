"""The plain convolution block that stems, trunks and scale branches share."""

from torch import nn

from symmetry_robustness.layers.checks import require_odd, require_positive


def conv_block(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Convolution with bias that keeps the size, batch norm, ReLU.

    Raises:
        UserError: a width is not a positive whole number, or the kernel size is even.
    """
    require_positive(in_channels=in_channels, channels=out_channels)
    require_odd(kernel_size)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
