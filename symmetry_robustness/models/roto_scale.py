"""The network whose every convolution commutes with scaling the image, and with quarter turns if asked."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.layers.pooling import GroupPool, TilingPool
from symmetry_robustness.layers.scale import ScaleConv, ScaleLifting
from symmetry_robustness.layers.scale_group import ScaleGroup
from symmetry_robustness.models.network import Trunk, build_trunk, classifier


class RotoScaleNetwork(nn.Sequential):
    """Images (B, 3, H, W) in [0, 1] to logits (B, num_classes), equivariant up to a head that pools over the group.

    Quarter turns of the image leave the logits alone, exactly on sizes that are even at every pool; scaling it, up to
    the error that its layers state and to what enters and leaves at the border and at the last scale.

    Args:
        scales: at which every filter is seen.
        rotations: 4 for quarter turns at every scale, 1 for none.
        fields: of the stem, a lifting convolution; a field has one channel per turn and scale.
        trunk: an integer k is a scale convolution to k fields, inner batch norm and ReLU; "pool" a 2×2 max pool.
        num_classes: at least 2.
        mean: of the normalisation, in [0, 1] pixels; one value or one per channel.
        std: likewise.
        scale_extent: how many neighbouring scales a filter spans, see `ScaleConv`.
        image_size: height and width; how many pools fit depends on it.

    Raises:
        UserError: an invalid setting.
    """

    def __init__(
        self,
        scales: int,
        rotations: int,
        fields: int,
        trunk: Trunk,
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        scale_extent: int = 1,
        image_size: int = 32,
    ) -> None:
        group = ScaleGroup(scales, rotations=rotations)

        def block(in_fields: int, out_fields: int) -> nn.Module:
            return _block(ScaleConv(group, in_fields, out_fields, scale_extent), out_fields, group)

        blocks, width = build_trunk(trunk, fields, block, image_size, partial(TilingPool, "max"))
        pools = [nn.AdaptiveAvgPool2d(1), GroupPool(group.order), nn.Flatten()]
        super().__init__(
            OrderedDict(
                normalize=Normalize(mean, std),
                stem=_block(ScaleLifting(group, 3, fields), fields, group),
                trunk=blocks,
                head=nn.Sequential(*pools, classifier(width, num_classes)),
            )
        )


def _block(convolution: nn.Module, fields: int, group: ScaleGroup) -> nn.Sequential:
    """A convolution to fields of the group, inner batch norm, ReLU."""
    return nn.Sequential(convolution, InnerBatchNorm(fields, group.order), nn.ReLU(inplace=True))
