"""Equivariance errors: changes of features, logits and gradient when an image is rotated or scaled.

Quarter turns are exact on the pixel grid and are taken of the images as they are. All other elements of the group need
resampling, for which images are cut to a disc (`discs.py`); beside each of their errors stands a floor, the error
that is left when the element is taken back, which resampling alone is responsible for.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import loss_gradient
from symmetry_robustness.attacks.losses import cross_entropy
from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.engine.continuous_batching import misclassified
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.plots import Plot, equivariance_plots
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.robustness.measures.discs import Element, check_square, cut_disc, inner_part, move
from symmetry_robustness.settings import checked

_TURNS: Final = (1, 2, 3)


@final
@checked
@dataclass(frozen=True)
class EquivarianceError:
    """Measures what the elements of the group change; columns are the elements.

    Under quarter turns of the image (90°, 180°, 270°), (N, 3) each:
        `turn.correct`: whether the turned image is classified correctly.
        `turn.consistent`: whether it gets the prediction of the image; the mean is the prediction's consistency.
        `turn.error.logits`: relative error of the logits (see `relative_error`).
        `turn.error.LAYER`: relative error of a layer's features against the turned features of the image.
        `turn.gradient_error`: relative error of the input gradient, turned back.
        `turn.gradient_norm_change`: |a - b| / (a + b) for the norms a, b of both gradients: 0 if equal, at most 1.
    Under `angles` and `scales`, of images cut to a disc:
        `disc.correct`: (N,), whether the disc is classified correctly as it is.
        `rotation.correct`, `.consistent`, `.error.…` (N, number of angles), `scale.…` (N, number of scales) likewise.
        `rotation.floor.…`, `scale.floor.…`: the same error after the element is taken back.

    A layer is a convolution. Its channels are compared one by one, as they move with the image, unless the module has a
    method (or attribute) `permute_fields(features, angle, scale)`: given features (B, C, H, W) that were moved in the
    plane, it returns them with the channels arranged as the rotation by `angle` degrees counter-clockwise and the
    magnification by `scale` arrange them, or None for what is not in its group, which gives NaN. Channels that it
    leaves NaN, since they would show what the layer does not see, are not compared.

    Costs 4 gradients per image for the quarter turns; 1 pass, and 2 for each angle and scale.

    Args:
        angles: degrees, counter-clockwise.
        scales: magnifications; below 1 the image shrinks.
        layers: whether the convolutions are measured, too.
        images: on how many images, those with the lowest numbers, it is taken; None for all.
    """

    angles: Sequence[float] = ()
    scales: Sequence[float] = ()
    layers: bool = False
    images: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles", tuple(self.angles))
        object.__setattr__(self, "scales", tuple(self.scales))
        if not all(1 / 8 <= scale <= 8 for scale in self.scales):
            raise UserError(f"scales must lie in [1/8, 8], got {list(self.scales)}; 0.5 halves the image")
        if not all(math.isfinite(angle) for angle in self.angles):
            raise UserError(f"angles must be finite, got {list(self.angles)}; 45 turns by an eighth")

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Accuracy and errors over angles and scales, and errors of layers under quarter turns."""
        return tuple(equivariance_plots(self.angles, self.scales, self.layers))

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Everything above for each image."""
        inputs.check()
        check_square(inputs.images)
        families = {
            "rotation": [Element(angle=angle) for angle in self.angles],
            "scale": [Element(scale=scale) for scale in self.scales],
        }
        parts = []
        for batch in inputs.batches():
            found = {f"turn.{name}": values for name, values in quarter_turns(batch, self.layers).items()}
            if self.angles or self.scales:
                found |= moved_discs(batch, families, self.layers)
            parts.append({name: values.cpu().numpy() for name, values in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def relative_error(first: Tensor, second: Tensor) -> Tensor:
    """Twice |a - b|² / (|a|² + |b|²) for each pair of rows of (B, ...): (B,).

    It is 0 for equal and 2 for unrelated rows, never more than 4, and for small errors the usual |a - b|² / |b|².
    """
    first, second = first.flatten(1).double(), second.flatten(1).double()
    size = first.square().sum(1) + second.square().sum(1)
    return 2 * (first - second).square().sum(1) / size.clamp_min(torch.finfo(torch.float64).tiny)


class _View(NamedTuple):
    """A network at a batch: logits (B, K), features (B, ..., h, h) by layer."""

    logits: Tensor
    features: Mapping[str, Tensor]


def quarter_turns(batch: MeasureInputs, layers: bool = False) -> dict[str, Tensor]:
    """Changes under exact turns of a batch of images by 90°, 180° and 270°, (B, 3) by name; see `EquivarianceError`."""
    network, labels = batch.network, batch.labels
    still, gradient = _look_with_gradient(network, batch.images, labels, layers)
    predicted, length = still.logits.argmax(1), gradient.flatten(1).double().norm(dim=1)
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for turns in _TURNS:
        view, turned = _look_with_gradient(network, _turn(batch.images, turns), labels, layers)
        columns["correct"].append(~misclassified(view.logits, labels))
        columns["consistent"].append(~misclassified(view.logits, predicted))
        columns["error.logits"].append(relative_error(view.logits, still.logits))
        columns["gradient_error"].append(relative_error(_turn(turned, -turns), gradient))
        other = turned.flatten(1).double().norm(dim=1)
        change = (other - length).abs() / (other + length).clamp_min(torch.finfo(length.dtype).tiny)
        columns["gradient_norm_change"].append(change)
        for name, features in view.features.items():
            expected = _permuted(
                network.get_submodule(name), _turn(still.features[name], turns), Element(angle=90.0 * turns)
            )
            columns[f"error.{name}"].append(_error_if_known(features, expected))
    return {name: torch.stack(values, dim=1) for name, values in columns.items()}


def moved_discs(
    batch: MeasureInputs, families: Mapping[str, Sequence[Element]], layers: bool = False
) -> dict[str, Tensor]:
    """Changes when images cut to discs are moved: `disc.correct` (B,) and (B, E) by family and name."""
    network, labels = batch.network, batch.labels
    disc = cut_disc(batch.images)
    still = _look(network, disc.images, layers)
    predicted = still.logits.argmax(1)
    found = {"disc.correct": ~misclassified(still.logits, labels)}
    for family, elements in families.items():
        columns: dict[str, list[Tensor]] = defaultdict(list)
        for element in elements:
            moved = move(disc, element)
            view = _look(network, moved.images, layers)
            back = _look(network, move(moved, element.inverse).images, layers)
            columns["correct"].append(~misclassified(view.logits, labels))
            columns["consistent"].append(~misclassified(view.logits, predicted))
            columns["error.logits"].append(relative_error(view.logits, still.logits))
            columns["floor.logits"].append(relative_error(back.logits, still.logits))
            for name in still.features:
                error, floor = _feature_errors(network.get_submodule(name), name, element, still, view, back)
                columns[f"error.{name}"].append(error)
                columns[f"floor.{name}"].append(floor)
        found |= {f"{family}.{name}": torch.stack(values, dim=1) for name, values in columns.items()}
    return found


def _feature_errors(
    module: nn.Module, name: str, element: Element, still: _View, view: _View, back: _View
) -> tuple[Tensor, Tensor]:
    """Error of a layer's features, and its floor: features moved there and back, of the image moved there and back."""
    disc, mask = cut_disc(still.features[name]), inner_part(still.features[name], element.scale)
    expected = _permuted(module, move(disc, element).maps, element)
    inside = None if expected is None else expected * mask
    error = _error_if_known(cut_disc(view.features[name]).maps * mask, inside)
    returned = move(move(cut_disc(back.features[name]), element), element.inverse)
    kept = inner_part(disc.content, element.inverse.scale)
    return error, relative_error(returned.maps * kept, disc.maps * kept)


def _permuted(module: nn.Module, features: Tensor, element: Element) -> Tensor | None:
    """Features that were moved in the plane, with channels as the module says that the element arranges them."""
    permute = getattr(module, "permute_fields", None)
    if permute is None:
        return features
    permuted: Tensor | None = permute(features, element.angle, element.scale)
    return permuted


def _error_if_known(features: Tensor, expected: Tensor | None) -> Tensor:
    if expected is not None and (known := ~torch.isnan(expected).flatten(2).any(2).any(0)).any():
        return relative_error(features[:, known], expected[:, known])
    return torch.full((len(features),), torch.nan, dtype=torch.float64, device=features.device)


def _turn(maps: Tensor, turns: int) -> Tensor:
    """Turn maps (..., H, H) by multiples of 90°, counter-clockwise."""
    return torch.rot90(maps, turns, (-2, -1))


def _look(network: nn.Module, images: Tensor, layers: bool) -> _View:
    with _watched(network, layers) as features:
        return _View(predict(network, images.contiguous(memory_format=torch.channels_last)), features)


def _look_with_gradient(network: nn.Module, images: Tensor, labels: Tensor, layers: bool) -> tuple[_View, Tensor]:
    """The network at a batch, and the gradient (B, C, H, W) of the cross-entropy."""
    with _watched(network, layers) as features:
        logits, gradient = loss_gradient(
            network, images.contiguous(memory_format=torch.channels_last), labels, cross_entropy
        )
    return _View(logits, features), gradient


@contextlib.contextmanager
def _watched(network: nn.Module, layers: bool) -> Iterator[dict[str, Tensor]]:
    """Square maps that the convolutions put out during a pass, by the names of the modules."""
    features: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() >= 4 and output.shape[-1] == output.shape[-2]:
            features[name] = output.detach().clone()  # an activation may overwrite it

    watched = [(name, module) for name, module in network.named_modules() if layers and _is_layer(module)]
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in watched]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) or hasattr(module, "permute_fields")
