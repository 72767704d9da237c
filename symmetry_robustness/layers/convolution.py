"""Plain convolutions: the block of stems, trunks and scale branches, and the export of steerable ones."""

from torch import Tensor, nn

from symmetry_robustness.layers.validation import require_odd, require_positive


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


def plain_convolution(kernel: Tensor, bias: Tensor | None, stride: int = 1) -> nn.Conv2d:
    """Freeze a kernel into a plain convolution that keeps the size up to its stride, in evaluation mode.

    Args:
        kernel: (out_channels, in_channels, k, k), k odd.
        bias: (out_channels,), or None.
        stride: of the convolution.
    """
    outputs, inputs, size, _ = kernel.shape
    # On the meta device no random number is drawn for weights that are replaced at once.
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias is not None, device="meta")
    convolution.weight = nn.Parameter(kernel, requires_grad=False)
    convolution.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return convolution.eval()
