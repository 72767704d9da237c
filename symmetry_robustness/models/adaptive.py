"""Networks with two sets of norms, for clean and for attacked images, mixed by a predicted weight."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.fields import InnerBatchNorm, VectorBatchNorm
from symmetry_robustness.layers.validation import require_positive
from symmetry_robustness.models.network import LayerFactory, Network

Branch = Literal["clean", "attacked"]
_NORMS = (nn.BatchNorm2d, InnerBatchNorm, VectorBatchNorm)


class DualNorm(nn.Module):
    """Two norms of the same features, mixed image by image.

    Args:
        norm: of clean images; that of attacked ones begins as a copy of it.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.clean, self.attacked = norm, copy.deepcopy(norm)
        self.mixing: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by (1 - w) clean + w attacked, with w (B,) that the network has set."""
        assert self.mixing is not None, "the network sets it"
        clean: Tensor = self.clean(features)
        weight = self.mixing.to(clean.dtype)[:, None, None, None]
        return torch.lerp(clean, self.attacked(features), weight)  # exact at 0, at 1 and between equal numbers


class MixingPredictor(nn.Module):
    """Weight of the attacked branch from how rough an image is, which quarter turns and flips do not change.

    Features are, for each colour, the mean absolute first and second differences between neighbouring pixels.

    Args:
        channels: of the images.
        hidden: width of the hidden layer.
    """

    def __init__(self, channels: int = 3, hidden: int = 16) -> None:
        super().__init__()
        require_positive(channels=channels, hidden=hidden)
        self.layers = nn.Sequential(nn.Linear(2 * channels, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to weights (B,) in (0, 1)."""
        parts = [
            sum(images.diff(order, dim).abs().mean(dim=(2, 3)) for dim in (2, 3))
            for order in (1, 2)
        ]  # fmt: skip
        return self.layers(torch.cat(parts, dim=1)).squeeze(1).float().sigmoid()  # type: ignore[no-any-return, arg-type]


class AdaptiveNetwork(Network):
    """A network whose norms are two, mixed by the weight that a small head predicts for each image.

    A reconstruction of the adaptive features of arXiv 2105.15157 (AFA) from its abstract; norms of their own for clean
    and attacked images are those of arXiv 2010.11828 (OAT). The head and its features are ours. Gradients of attacks
    flow through the prediction.

    Args:
        stem: states its `out_channels`.
        trunk: see `Network`.
        num_classes: at least 2.
        mean: of the normalisation, in [0, 1] pixels; one value or one per channel.
        std: likewise.
        image_size: height and width; how many pools fit depends on it.
        hidden: width of the head that predicts the weight.
        weight: of the attacked branch, the same for all images; None predicts it.

    Raises:
        UserError: a setting of the network is invalid, the weight lies outside [0, 1], or there is no norm.
    """

    normalize: nn.Module
    stem: nn.Module
    trunk: nn.Module
    head: nn.Module

    def __init__(
        self,
        stem: nn.Module,
        trunk: Sequence[int | Literal["pool"] | LayerFactory],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        image_size: int = 32,
        hidden: int = 16,
        weight: float | None = None,
    ) -> None:
        super().__init__(stem, trunk, num_classes, mean, std, image_size)
        if weight is not None and not 0 <= weight <= 1:
            raise UserError(f"model.weight must lie in [0, 1], got {weight}; 0 is the clean branch, null predicts it")
        self.weight = weight
        self.stem, self.trunk = _with_dual_norms(self.stem), _with_dual_norms(self.trunk)
        if not self._norms():
            raise UserError("the network has no batch norm to double; choose layers with norms, as model=standard has")
        self.predictor = MixingPredictor(3, hidden)

    def _norms(self) -> list[DualNorm]:
        return [module for module in self.modules() if isinstance(module, DualNorm)]

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the weight reaches the norms past their arguments
    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, num_classes)."""
        features = self.normalize(images)
        mixing = self.predictor(features) if self.weight is None else images.new_full((len(images),), self.weight)
        norms = self._norms()
        try:
            for norm in norms:
                norm.mixing = mixing
            return self.head(self.trunk(self.stem(features)))  # type: ignore[no-any-return]
        finally:
            for norm in norms:
                norm.mixing = None

    @contextlib.contextmanager
    def learning(self, branch: Branch) -> Iterator[None]:
        """Let the norms of one branch learn from the images that pass; the other ones use their running statistics.

        Graphs that are built within remain valid, whatever the running statistics become afterwards.
        """
        frozen = [
            module
            for norm in self._norms()
            for module in (norm.attacked if branch == "clean" else norm.clean).modules()
        ]
        before = [(module, module.training, dict(module._buffers)) for module in frozen]
        try:
            for module in frozen:
                module.training = False
                for name, buffer in module._buffers.items():
                    module._buffers[name] = None if buffer is None else buffer.clone()
            yield
        finally:
            for module, training, buffers in before:
                module.training = training
                module._buffers.update(buffers)


def _with_dual_norms(module: nn.Module) -> nn.Module:
    """The module with every norm replaced by two, in place."""
    if isinstance(module, _NORMS):
        return DualNorm(module)
    for name, child in module.named_children():
        setattr(module, name, _with_dual_norms(child))
    return module
