"""The network whose every convolution is a rotation convolution."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.layers.rotation import GroupPool, InnerBatchNorm, Representation, RotationConv, group_order
from symmetry_robustness.models.network import Trunk, build_trunk, classifier


class EquivariantNetwork(nn.Sequential):
    """Images (B, 3, H, W) in [0, 1] to logits (B, num_classes): equivariant up to its head.

    Args:
        group: C_N or D_N.
        fields: regular fields of the stem, a lifting convolution.
        trunk: an integer k is a rotation convolution to k regular fields, inner batch norm and ReLU; "pool" a 2×2
            max pool, which keeps quarter turns exact on even sizes.
        head: "released" averages over space and feeds all channels of all fields to the classifier, so a turn of the
            image changes the logits; "invariant" pools over the group first, so quarter turns of the image (and the
            reflections of D_N) leave the logits alone if the group contains them.
        num_classes: at least 2.
        mean: of the normalisation, in [0, 1] pixels; one value or one per channel.
        std: likewise.
        image_size: height and width; how many pools fit depends on it.

    Raises:
        UserError: a setting that cannot be.
    """

    def __init__(
        self,
        group: str,
        fields: int,
        trunk: Trunk,
        head: Literal["released", "invariant"],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        image_size: int = 32,
    ) -> None:
        order = group_order(group)
        if head not in ("released", "invariant"):
            raise UserError(f"head must be released or invariant, got {head!r}; choose one of them")
        stem = rotation_block(3, fields, group=group, in_representation="trivial")
        blocks, width = build_trunk(trunk, fields, partial(rotation_block, group=group), image_size)
        pools: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)]
        if head == "invariant":
            pools.append(GroupPool(order))
        features = width if head == "invariant" else width * order
        super().__init__(
            OrderedDict(
                normalize=Normalize(mean, std),
                stem=stem,
                trunk=blocks,
                head=nn.Sequential(*pools, nn.Flatten(), classifier(features, num_classes)),
            )
        )


def rotation_block(
    in_fields: int, out_fields: int, *, group: str, in_representation: Representation = "regular"
) -> nn.Sequential:
    """Rotation convolution with bias, inner batch norm, ReLU."""
    return nn.Sequential(
        RotationConv(group, in_fields, out_fields, in_representation=in_representation),
        InnerBatchNorm(out_fields, group_order(group)),
        nn.ReLU(inplace=True),
    )
