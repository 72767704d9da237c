"""Trunks of residual units with pre-activation: ResNet-18 for 32×32 images and wide residual networks."""

from collections.abc import Sequence

from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.validation import require_positive


class ResidualUnit(nn.Module):
    """Batch norm, ReLU, 3×3 convolution, twice, added to the input.

    Where width or size change, the sum takes a 1×1 convolution of the activated input in place of the input.
    Source: arXiv 1603.05027, fig. 4e (full pre-activation).

    Args:
        in_channels: of the features that come in.
        channels: of those that come out.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.activation = _activation(in_channels)
        self.projection = (
            nn.Identity()
            if in_channels == channels and stride == 1
            else nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        )
        self.projects = not isinstance(self.projection, nn.Identity)
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            *_activation(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        activated = self.activation(features)
        shortcut: Tensor = self.projection(activated) if self.projects else features
        residual: Tensor = self.residual(activated)
        return shortcut + residual


class ResidualTrunk(nn.Sequential):
    """Stages of residual units, the first unit of every stage but the first with stride 2; then batch norm and ReLU.

    The mean over space ends it, so the network's head takes its maximum over a single position.
    Source: arXiv 1603.05027 (pre-activation); arXiv 1605.07146, table 1 (wide networks).

    Args:
        in_channels: of the stem; where it is not the first width, the first unit projects it.
        widths: of the stages.
        units: in each stage.

    Raises:
        UserError: no stage, or a width or number of units that is no positive whole number.

    Examples:
        >>> trunk = ResidualTrunk(16, widths=[8, 16], units=1)
        >>> trunk(torch.rand(2, 16, 32, 32)).shape, trunk.out_channels
        (torch.Size([2, 16, 1, 1]), 16)
    """

    def __init__(self, in_channels: int, widths: Sequence[int], units: int) -> None:
        if not widths:
            raise UserError("trunk.widths must not be empty, got []; name the width of every stage")
        require_positive(in_channels=in_channels, units=units)
        layers, width = nn.Sequential(), in_channels
        for stage, channels in enumerate(widths):
            require_positive(widths=channels)
            for unit in range(units):
                layers.append(ResidualUnit(width, channels, stride=2 if stage and not unit else 1))
                width = channels
        super().__init__(*layers, *_activation(width), nn.AdaptiveAvgPool2d(1))
        self.out_channels = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # arXiv 1502.01852, as both papers
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _activation(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
