"""The network that compares stems: normalise → stem → trunk → head."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.convolution import conv_block
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.models.stems import channels_of

Trunk = Sequence[int | Literal["pool"]]
LayerFactory = Callable[[int], nn.Module]  # from the channels that come in to layers that state `out_channels`


class GlobalMaxPool(nn.Module):
    """Largest value of each channel; `amax`, because the adaptive pool's gradient is not deterministic on GPUs."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        return features.amax(dim=(2, 3))


class Network(nn.Sequential):
    """Images (B, 3, H, W) in [0, 1] to logits (B, num_classes): a stem, then layers without symmetry.

    Args:
        stem: states its `out_channels`.
        trunk: an integer k is a convolution block to k channels, "pool" a 2×2 max pool, a function from the channels
            that come in makes layers of its own.
        num_classes: at least 2.
        mean: of the normalisation, in [0, 1] pixels; one value or one per channel.
        std: likewise.
        image_size: height and width; how many pools fit depends on it.

    Raises:
        UserError: an entry of the trunk, the number of pools or of classes is invalid.
    """

    def __init__(
        self,
        stem: nn.Module,
        trunk: Sequence[int | Literal["pool"] | LayerFactory],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        image_size: int = 32,
    ) -> None:
        blocks, width = build_trunk(trunk, channels_of(stem), conv_block, image_size, width_of=channels_of)
        head = nn.Sequential(GlobalMaxPool(), classifier(width, num_classes))
        super().__init__(OrderedDict(normalize=Normalize(mean, std), stem=stem, trunk=blocks, head=head))


def build_trunk(
    trunk: Sequence[int | Literal["pool"] | LayerFactory],
    width: int,
    block: Callable[[int, int], nn.Module],
    image_size: int,
    pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(2),
    width_of: Callable[[nn.Module], int] | None = None,
) -> tuple[nn.Sequential, int]:
    """Stack blocks and 2×2 pools.

    Args:
        trunk: see `Network`.
        width: of the features that come in.
        block: makes the block from one width to the next.
        image_size: height and width of the features that come in.
        pool: makes the 2×2 pool.
        width_of: the width of layers that a function among the entries has made; None where it could not fit.

    Returns:
        The layers, and the width of the features that come out.

    Raises:
        UserError: an entry is neither "pool" nor a positive whole number, or makes layers where `width_of` is None, or
            a pool finds a single pixel.
    """
    if not isinstance(trunk, Sequence):
        raise UserError(f"trunk must be a list of widths and 'pool', got {trunk!r}; write it as in [pool, 32, 32, 64]")
    layers: list[nn.Module] = []
    for entry in trunk:
        if entry == "pool":
            layers.append(pool())
        elif isinstance(entry, int) and not isinstance(entry, bool) and entry > 0:
            layers.append(block(width, entry))
            width = entry
        elif callable(entry):
            if width_of is None:
                raise UserError(
                    "trunk has layers without symmetry, which no equivariant network holds; choose model/trunk=plain"
                )
            layers.append(entry(width))
            width = width_of(layers[-1])
        else:
            raise UserError(f"trunk must hold widths and 'pool', got {entry!r}; write it as in [pool, 32, 32, 64]")
    pools = sum(entry == "pool" for entry in trunk)
    if image_size >> pools < 1:
        fit = image_size.bit_length() - 1
        raise UserError(f"trunk has {pools} pools, more than {image_size} pixels allow; keep at most {fit}")
    return nn.Sequential(*layers), width


def classifier(features: int, num_classes: int) -> nn.Linear:
    """Linear layer from features to classes.

    Raises:
        UserError: there are fewer than two classes.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(f"num_classes must be at least 2, got {num_classes!r}; it follows the data set")
    return nn.Linear(features, num_classes)
