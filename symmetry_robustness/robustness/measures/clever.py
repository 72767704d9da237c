"""CLEVER: an estimate of the smallest perturbation that could change a prediction. Source: arXiv 1801.10578."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.attacks.validation import (
    check_gradients_exist,
    check_images,
    check_indices,
    check_logits,
    forward,
)
from symmetry_robustness.engine.fusion import fuse
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.results.plots import Distribution
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.measures.base import MeasureInputs
from symmetry_robustness.robustness.measures.weibull import fit_reverse_weibull
from symmetry_robustness.settings import checked

# The gradient norm that bounds a change of the logits under a perturbation of each norm: 1/p + 1/q = 1.
_DUAL: Final = {"l1": float("inf"), "l2": 2.0, "linf": 1.0}

# Samples drawn in one go, whatever the batch size, so that the batch size does not decide which points are drawn.
_BLOCK: Final = 32

# Images whose maxima are held before they are fitted; bounds memory.
_GROUP: Final = 64


class CleverScores(NamedTuple):
    """CLEVER scores with everything needed to judge them, on the CPU.

    `value` (B,) is the score of each image, the least over its targets, in pixel units; `predicted` (B,) the predicted
    class, whose margin is measured whether or not it is the true one. All others are (B, K): `targets` the target
    classes, all wrong classes in order or the chosen ones, most likely first; `per_target` the score towards each.

    The rest says how good the fits are: `lipschitz` is the estimated largest gradient norm in the ball, `p_value` that
    of the Kolmogorov-Smirnov test and `shape` of the reverse Weibull. `fallback`: the fit was rejected, `degenerate`:
    the gradient is constant; both use the largest norm found. `saturated`: the score is capped at the radius, so it
    only says "at least". Where a gradient is not finite, `lipschitz` is infinite and the score 0.
    """

    value: Tensor
    per_target: Tensor
    targets: Tensor
    predicted: Tensor
    lipschitz: Tensor
    p_value: Tensor
    shape: Tensor
    fallback: Tensor
    degenerate: Tensor
    saturated: Tensor


@final
@checked
@dataclass(frozen=True)
class Clever:
    """Settings of the CLEVER score, on logits.

    For every image and target, `num_batches` times the largest gradient norm of the logit difference is taken over
    `samples_per_batch` fresh points drawn uniformly from the ball of the given norm around the image; a reverse Weibull
    distribution is fitted to these maxima (see `fit_reverse_weibull`), and the margin divided by its upper end is the
    score. Points are uniform in the ball for all three norms, as in ART; with `clip` they are then clipped to [0, 1] as
    in the original code (which draws the radius, not the volume, uniformly).

    Args:
        norm: of the perturbation: "l1", "l2" or "linf"; gradients are measured in the dual norm.
        radius: of the ball, pixel units; also the cap of the score. The original's 5 for l2.
        num_batches: number of maxima; the original's 500.
        samples_per_batch: points per maximum; the original's 1024.
        targets: "all" wrong classes, a number k (or "top-k") for the k most likely ones, "random" or "least_likely".
        estimate: "weibull" divides by the upper end of the fitted distribution, "maximum" by the largest norm found,
            which is better where few maxima are drawn; the original calls it maxsamp.
        clip: keep sampled points inside [0, 1].
        seed: of the points and of random targets, together with the number of the image.
        batch_size: points per pass through the network.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Examples:
        >>> image = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1)  # margin 0.1, slope √2
        >>> clever = Clever(norm="l2", radius=1.0, num_batches=2, samples_per_batch=8, estimate="maximum")
        >>> clever(nn.Flatten().eval(), image).value
        tensor([0.0707], dtype=torch.float64)
    """

    norm: Literal["l1", "l2", "linf"] = "l2"
    radius: float = 5.0
    num_batches: int = 500
    samples_per_batch: int = 1024
    targets: str | int = "all"
    estimate: Literal["weibull", "maximum"] = "weibull"
    clip: bool = True
    seed: int = 0
    batch_size: int = 128
    images: int | None = None

    title: ClassVar = "CLEVER"
    means: ClassVar = ("value",)
    headline: ClassVar = "value"
    lower_bound: ClassVar = "value"
    plots: ClassVar = (Distribution("value", "CLEVER score"),)

    def __post_init__(self) -> None:
        if self.norm not in _DUAL:
            raise UserError(f"clever norm must be one of {', '.join(_DUAL)}, got {self.norm!r}; choose one of them")
        if self.estimate not in ("weibull", "maximum"):
            raise UserError(f"clever estimate must be weibull or maximum, got {self.estimate!r}; choose one of them")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise UserError(f"clever radius must be positive, got {self.radius}; the original uses 5 in l2")
        for name in ("num_batches", "samples_per_batch", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"clever {name} must be at least 1, got {getattr(self, name)}; set it to 1 or more")
        _ = self.top

    @property
    def top(self) -> int | None:
        """Number of most likely targets, None for the other kinds.

        Raises:
            UserError: where `targets` cannot be read.
        """
        if self.targets in ("all", "random", "least_likely"):
            return None
        count = str(self.targets).removeprefix("top-")
        if not count.isdecimal() or int(count) < 1:
            raise UserError(
                f"clever targets must be all, random, least_likely or a number of classes, got {self.targets!r}; "
                'for the 10 most likely ones write "top-10"'
            )
        return int(count)

    @property
    def passes(self) -> int:
        """Network passes for each image."""
        return self.num_batches * self.samples_per_batch

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        generator: torch.Generator | None = None,
        *,
        indices: Sequence[int] | npt.NDArray[np.int64] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> CleverScores:
        """Score images (B, C, H, W) in [0, 1].

        Args:
            network: images to logits (B, classes), in evaluation mode; neither its mode nor its gradients are touched.
            images: float32 (B, C, H, W) in [0, 1].
            generator: replaces the seed.
            indices: (B,) numbers of the images in their data set; with the seed they decide the sampled points.
            progress: called with the number of finished images, fractions included.

        Raises:
            UserError: for unsuitable images or logits, or a call inside inference mode.
        """
        images = check_images(images)
        images = images.detach().clone() if images.is_inference() else images.detach()
        inputs = MeasureInputs(
            network,
            images,
            torch.zeros(len(images), dtype=torch.int64, device=images.device),
            check_indices(indices, len(images)),
            self.seed if generator is None else generator.initial_seed(),
            notify=progress or (lambda done: None),
        )
        inputs, logits = self._prepare(inputs)
        check_logits(logits)
        return CleverScores(**{name: torch.from_numpy(found) for name, found in self._score(inputs, logits).items()})

    def compute(self, inputs: MeasureInputs) -> dict[str, npt.NDArray[Any]]:
        """The fields of `CleverScores` by name, for the images whose logits are finite."""
        inputs, logits = self._prepare(inputs._replace(seed=self.seed))
        finite = torch.isfinite(logits).all(1)  # others have no margin
        rows = np.flatnonzero(finite.cpu().numpy())
        arrays = self._score(inputs.take(rows), logits[finite])
        return {"indices": inputs.indices[rows], **arrays, "nonfinite": np.isinf(arrays["lipschitz"]).any(1)}

    def _prepare(self, inputs: MeasureInputs) -> tuple[MeasureInputs, Tensor]:
        """Inputs with the network in its fastest form, and its logits (B, classes)."""
        inputs.check()
        check_gradients_exist("clever")
        inputs = inputs._replace(network=fuse(inputs.network, inputs.images), batch_size=self.batch_size)
        return inputs, inputs.logits(inputs.images.contiguous(memory_format=torch.channels_last))

    def _score(self, inputs: MeasureInputs, logits: Tensor) -> dict[str, npt.NDArray[Any]]:
        """Scores and quality of the fits by name, a group of images at a time."""
        targets, parts = _targets(self, logits, inputs), []
        for start in range(0, max(len(logits), 1), _GROUP):
            group = slice(start, start + _GROUP)
            maxima = gradient_maxima(self, inputs.take(group), logits[group].argmax(1), targets[group], start)
            parts.append(_scores(self, logits[group], targets[group], maxima))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def gradient_maxima(
    settings: Clever, inputs: MeasureInputs, predicted: Tensor, targets: Tensor, before: int = 0
) -> npt.NDArray[np.float64]:
    """Largest gradient norm of each batch of points, (B, K, num_batches), in one stream of points.

    Args:
        settings: of the score.
        inputs: network and images (B, C, H, W).
        predicted: (B,) predicted classes.
        targets: (B, K) target classes.
        before: images that were finished before.
    """
    maxima = torch.zeros((len(targets) * settings.num_batches, targets.shape[1]), device=targets.device)
    rows: list[int] = []  # of `maxima`, one per point that waits for its pass
    points: list[Tensor] = []

    def pass_points() -> None:
        """One forward pass and one vector-Jacobian product per target; their norms enter the maxima."""
        if points:
            index = torch.as_tensor(rows, device=maxima.device)
            owner = index // settings.num_batches
            dual = _DUAL[settings.norm]
            norms = gradient_norms(inputs.network, torch.cat(points), predicted[owner], targets[owner], dual)
            maxima.scatter_reduce_(0, index[:, None].expand_as(norms), norms, "amax")

    for row, block in _blocks(settings, inputs):
        if points and len(rows) + len(block) > settings.batch_size:
            pass_points()
            inputs.notify(before + row / settings.num_batches)
            rows, points = [], []
        rows += [row] * len(block)
        points.append(block)
    pass_points()
    inputs.notify(before + len(targets))
    return maxima.reshape(len(targets), settings.num_batches, targets.shape[1]).transpose(1, 2).double().cpu().numpy()


def _blocks(settings: Clever, inputs: MeasureInputs) -> Iterator[tuple[int, Tensor]]:
    """Points around the images with their row of the maxima, a few at a time."""
    device, norm = inputs.images.device, NORMS[settings.norm]
    for position, image in enumerate(inputs.images):
        for batch in range(settings.num_batches):
            source = keyed_generator(inputs.seed, int(inputs.indices[position]), batch, device=device)
            for start in range(0, settings.samples_per_batch, _BLOCK):
                count = min(_BLOCK, settings.samples_per_batch - start)
                points = image + settings.radius * norm.sample((count, *image.shape), source, device)
                yield position * settings.num_batches + batch, points.clamp_(0, 1) if settings.clip else points


def gradient_norms(network: nn.Module, points: Tensor, predicted: Tensor, targets: Tensor, order: float) -> Tensor:
    """Norm of the gradient of logit `predicted` (n,) minus each of the logits `targets` (n, K) at points: (n, K)."""
    with torch.enable_grad(), float32(points.device):
        variable = points.contiguous(memory_format=torch.channels_last).requires_grad_()
        logits = forward(network, variable)
        if not logits.requires_grad:
            return torch.zeros(targets.shape, device=points.device)
        norms = []
        for position in range(targets.shape[1]):
            direction = torch.zeros_like(logits)
            direction.scatter_(1, predicted[:, None], 1.0)
            direction.scatter_(1, targets[:, position, None], -1.0)
            last = position == targets.shape[1] - 1
            (gradient,) = torch.autograd.grad(logits, variable, direction, retain_graph=not last, allow_unused=True)
            if gradient is None:
                return torch.zeros(targets.shape, device=points.device)
            # Without flattening, which would copy the gradient into another memory order.
            norms.append(torch.linalg.vector_norm(gradient, ord=order, dim=tuple(range(1, gradient.dim()))))
    return torch.stack(norms, dim=1)


def _scores(
    settings: Clever, logits: Tensor, targets: Tensor, maxima: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    """Fit the maxima (B, K, num_batches) and divide the margins by the result."""
    shape = maxima.shape[:2]
    maxima = maxima.reshape(-1, maxima.shape[2])
    unbounded = np.asarray(~np.isfinite(maxima).all(1))
    maxima = np.where(unbounded[:, None], 0.0, maxima)
    fit = fit_reverse_weibull(maxima if settings.estimate == "weibull" else maxima.max(1, keepdims=True))
    lipschitz = np.where(unbounded, np.inf, fit.location).reshape(shape)
    values, classes = logits.double().cpu().numpy(), targets.cpu().numpy()
    predicted = values.argmax(1)
    margin = np.take_along_axis(values, predicted[:, None], 1) - np.take_along_axis(values, classes, 1)
    # Where the gradient vanishes nothing in the ball changes the margin.
    ratio = np.divide(margin, lipschitz, out=np.full(shape, np.inf), where=lipschitz > 0)
    per_target = np.minimum(ratio, settings.radius)
    return {
        "value": per_target.min(1),
        "per_target": per_target,
        "targets": classes,
        "predicted": predicted,
        "lipschitz": lipschitz,
        "p_value": fit.p_value.reshape(shape),
        "shape": fit.shape.reshape(shape),
        "fallback": fit.fallback.reshape(shape),
        "degenerate": fit.degenerate.reshape(shape),
        "saturated": ratio >= settings.radius,
    }


def _targets(settings: Clever, logits: Tensor, inputs: MeasureInputs) -> Tensor:
    """Target classes (B, K) of each image."""
    classes = logits.shape[1]
    if classes < 2:
        raise UserError(f"clever needs at least 2 classes, got {classes}; score a classifier")
    ranked = logits.argsort(1, descending=True)[:, 1:]
    if settings.top is not None:
        return ranked[:, : settings.top]
    if settings.targets == "least_likely":
        return ranked[:, -1:]
    if settings.targets == "all":
        return ranked.sort(1).values
    sources = [keyed_generator(inputs.seed, int(number)) for number in inputs.indices]
    draws = [torch.randint(classes - 1, (1,), generator=source) for source in sources]
    chosen = torch.stack(draws) if draws else torch.zeros((0, 1), dtype=torch.int64)
    return ranked.gather(1, chosen.to(ranked.device))
