"""The network whose every convolution commutes with a group of rotations, and of scalings if asked for."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.hermite import ScaleGroup
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.layers.rotation import GroupPool, InnerBatchNorm, Representation, RotationConv, group_order
from symmetry_robustness.layers.scale import ScaleConv, ScaleLifting
from symmetry_robustness.models.network import Trunk, build_trunk, classifier


class EquivariantNetwork(nn.Sequential):
    """Images (B, 3, H, W) in [0, 1] to logits (B, num_classes): equivariant up to its head.

    Args:
        group: C_N or D_N; with more than one scale C4 (quarter turns) or C1 (none).
        fields: regular fields of the stem, a lifting convolution.
        trunk: an integer k is an equivariant convolution to k regular fields, inner batch norm and ReLU; "pool" a 2×2
            max pool, which keeps quarter turns exact on even sizes.
        head: "released" averages over space and feeds all channels of all fields to the classifier, so a turn of the
            image changes the logits; "invariant" pools over the group first, so quarter turns of the image (and the
            reflections of D_N) leave the logits alone if the group contains them.
        num_classes: at least 2.
        mean: of the normalisation, in [0, 1] pixels; one value or one per channel.
        std: likewise.
        image_size: height and width; how many pools fit depends on it.
        scales: at which every filter is seen; a field has one channel per group element and scale.
        interaction: how many neighbouring scales a filter spans, see `ScaleConv`.

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
        scales: int = 1,
        interaction: int = 1,
    ) -> None:
        if head not in ("released", "invariant"):
            raise UserError(f"head must be released or invariant, got {head!r}; choose one of them")
        if scales == 1 and interaction == 1:
            order = group_order(group)
            stem = rotation_block(3, fields, group=group, in_representation="trivial")
            block = partial(rotation_block, group=group)
        else:
            scale_group = _scale_group(group, scales)
            order = scale_group.order
            stem = equivariant_block(ScaleLifting(scale_group, 3, fields), fields, order)
            block = partial(scale_block, group=scale_group, interaction=interaction)
        blocks, width = build_trunk(trunk, fields, block, image_size)
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
    convolution = RotationConv(group, in_fields, out_fields, in_representation=in_representation)
    return equivariant_block(convolution, out_fields, group_order(group))


def scale_block(in_fields: int, out_fields: int, *, group: ScaleGroup, interaction: int) -> nn.Sequential:
    """Scale convolution with bias, inner batch norm, ReLU."""
    return equivariant_block(ScaleConv(group, in_fields, out_fields, interaction), out_fields, group.order)


def equivariant_block(convolution: nn.Module, fields: int, order: int) -> nn.Sequential:
    """A convolution to fields of so many channels each, inner batch norm, ReLU."""
    return nn.Sequential(convolution, InnerBatchNorm(fields, order), nn.ReLU(inplace=True))


def _scale_group(group: str, scales: int) -> ScaleGroup:
    """The scales, and the quarter turns if the group is C4.

    Raises:
        UserError: any other group.
    """
    if group not in ("C1", "C4"):
        raise UserError(f"group must be C1 or C4 beside {scales} scales, got {group!r}; other groups need scales=1")
    return ScaleGroup(scales, rotations=4 if group == "C4" else 1)
