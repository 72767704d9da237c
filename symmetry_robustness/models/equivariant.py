"""The network whose every convolution is a rotation convolution."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.fields import Nonlinearity, field_nonlinearity, field_norm
from symmetry_robustness.layers.groups import FieldType
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.layers.pooling import Pool, field_pool, group_pool, require_tiling
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.models.network import Trunk, build_trunk, classifier


class EquivariantNetwork(nn.Sequential):
    """Images (B, 3, H, W) in [0, 1] to logits (B, num_classes): equivariant up to its head.

    `field_types` states how the group acts on the output of each part, by the part's name ("stem", "trunk.0", …); it
    holds for the exported network, too.

    Args:
        group: C_N or D_N.
        fields: of the stem, a lifting convolution.
        trunk: an integer k is a rotation convolution to k fields, inner batch norm and nonlinearity; "pool" a 2×2 pool.
        head: "released" averages over space and feeds all channels of all fields to the classifier, so a turn of the
            image changes the logits; "invariant" pools over the group first, so quarter turns of the image (and the
            reflections of D_N) leave the logits alone if the group contains them.
        num_classes: at least 2.
        mean: of the normalisation, in [0, 1] pixels; one value or one per channel.
        std: likewise.
        image_size: height and width; even at every pool.
        representation: of all fields: trivial, regular, irrepK (vectors that rotate K times as fast as the image), or
            several joined by +, as in "trivial+irrep1".
        nonlinearity: "relu" for fields whose channels the group permutes (trivial and regular), "norm" for all.
        pool: "max" for the same fields, "average" for all.

    Raises:
        UserError: an invalid setting, or an image size at which the pools break the symmetry.
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
        representation: str = "regular",
        nonlinearity: Nonlinearity = "relu",
        pool: Pool = "max",
    ) -> None:
        if head not in ("released", "invariant"):
            raise UserError(f"head must be released or invariant, got {head!r}; choose one of them")
        images, first = FieldType(group, "trivial", 3), FieldType(group, representation, fields)
        make = partial(_block, group=group, representation=representation, nonlinearity=nonlinearity)
        blocks, width = build_trunk(trunk, fields, make, image_size, partial(field_pool, first, pool))
        for number in range(sum(entry == "pool" for entry in trunk)):
            require_tiling(image_size >> number, 2)
        last = FieldType(group, representation, width)
        head_layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)]
        if head == "invariant":
            head_layers.append(group_pool(last))
        features = width * len(last.parts) if head == "invariant" else last.channels
        super().__init__(
            OrderedDict(
                normalize=Normalize(mean, std),
                stem=rotation_block(images, first, nonlinearity),
                trunk=blocks,
                head=nn.Sequential(*head_layers, nn.Flatten(), classifier(features, num_classes)),
            )
        )
        self.field_types = {"normalize": images, "stem": first}
        for number, entry in enumerate(trunk):
            first = first if entry == "pool" else FieldType(group, representation, int(entry))
            self.field_types[f"trunk.{number}"] = first


def rotation_block(in_type: FieldType, out_type: FieldType, nonlinearity: Nonlinearity = "relu") -> nn.Sequential:
    """Rotation convolution with bias, inner batch norm, nonlinearity."""
    return nn.Sequential(
        RotationConv(
            in_type.group,
            in_type.fields,
            out_type.fields,
            in_representation=in_type.representation,
            out_representation=out_type.representation,
        ),
        field_norm(out_type),
        field_nonlinearity(out_type, nonlinearity),
    )


def _block(
    in_fields: int, out_fields: int, *, group: str, representation: str, nonlinearity: Nonlinearity
) -> nn.Sequential:
    """The block of a trunk, whose fields are all of one representation."""
    in_type, out_type = (FieldType(group, representation, fields) for fields in (in_fields, out_fields))
    return rotation_block(in_type, out_type, nonlinearity)
