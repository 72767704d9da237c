"""Detection of attacked images: a score of each, a threshold from clean images alone, and attacks that know both."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, cast, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import AttackCall, Pass, accepted_norms, as_attack, attack_loss, describe_settings
from symmetry_robustness.attacks.gradient import PGD
from symmetry_robustness.attacks.threat import TOLERANCE, Threat, ThreatModel, parse_epsilon
from symmetry_robustness.attacks.threats import ThreatName, make_threat
from symmetry_robustness.attacks.validation import check_count, check_norm, forward
from symmetry_robustness.engine.continuous_batching import misclassified
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.results.plots import Distribution, Plot
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.settings import checked

# Images (B, C, H, W) in [0, 1] to scores (B,), larger for what looks attacked; gradients flow where they can.
Score = Callable[[Tensor], Tensor]

_FEWEST: Final = 20  # of fewer images a threshold says nothing


class Detector(ABC):
    """Settings of a detector, a frozen dataclass; `fit` makes its score of one network.

    The score is one function of an image in [0, 1]. It is told neither whether the image was attacked nor anything
    else, so that clean and attacked images get the same preprocessing.
    """

    @abstractmethod
    def fit(self, network: nn.Module, images: Tensor, seed: int) -> Score:
        """Make the score.

        Args:
            network: in evaluation mode, made of modules.
            images: clean (N, C, H, W), of which nothing but pixels is known.
            seed: of all that is drawn.

        Raises:
            UserError: for a network or images on which the detector is not defined.
        """

    def describe(self) -> dict[str, Any]:
        """Class and settings as plain values."""
        return describe_settings(self)


class _Calibrated(NamedTuple):
    """A score of a network, its threshold, and the standard deviation of its values on clean images."""

    network: nn.Module
    score: Score
    threshold: float
    scale: float


@final
@checked
@dataclass(frozen=True)
class Detection:
    """Measures how well attacked images are told from clean ones, and whether an attack that knows the detector evades.

    The detector is fitted on one half of the calibration images, clean ones of the validation split; the threshold is
    set on the other half so that `false_positive_rate` of clean images exceed it. Neither sees a test image, an
    attacked image or a label. Attacked images count where the network is right about the clean image and wrong about
    the attacked one.

    The adaptive attack ascends, in steps of PGD, the cross-entropy minus a strength times the score in standard
    deviations; of all its iterates, over all strengths, and the result of the plain attack it keeps the misclassified
    one of lowest score. A detector is judged by attacks that know it: arXiv 1705.07263.

    Arrays (M,): `clean` and `attacked`, scores; `success` of the attack; `false_positive`, whether the clean image is
    flagged; `detected`, whether the attacked one is, NaN where the attack fails; with adaptive strengths `adaptive`,
    `adaptive_success` and `adaptive_detected` likewise, and `evaded`, whether the adaptive attack deceives the network
    unflagged, NaN where the network is wrong anyway.

    Statistics: `auroc` and `fpr95`, the share of clean images flagged where 95 % of successful attacks are;
    `adaptive_auroc` against the adaptive attack.

    Args:
        detector: whose score it is.
        attack: crafted on the network alone.
        norm: of the threat.
        epsilon: of the threat, number or fraction such as "8/255".
        false_positive_rate: of clean images, by which the threshold is set.
        strengths: weights of the score in the adaptive attack, one run each; empty for none.
        adaptive_steps: of each run.
        calibration_images: how many clean validation images.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Raises:
        UserError: an impossible setting.
    """

    detector: Detector
    attack: AttackCall = field(default_factory=lambda: PGD(steps=20))
    norm: ThreatName = "linf"
    epsilon: float | str = 8 / 255
    false_positive_rate: float = 0.05
    strengths: tuple[float, ...] = (1.0, 10.0)
    adaptive_steps: int = 40
    calibration_images: int = 1000
    images: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", parse_epsilon(self.epsilon))
        object.__setattr__(self, "strengths", tuple(float(strength) for strength in self.strengths))
        if not callable(getattr(self.detector, "fit", None)):
            raise UserError(
                f"detector must be one, got {self.detector!r}; give it a _target_ such as OrbitInconsistency"
            )
        check_norm("of the detection", self.norm, accepted_norms(as_attack(self.attack)))
        if not 0 < self.false_positive_rate < 1:
            raise UserError(
                f"false_positive_rate must lie between 0 and 1, got {self.false_positive_rate}; 0.05 is usual"
            )
        if any(not 0 <= strength < float("inf") for strength in self.strengths):
            raise UserError(f"strengths must not be negative, got {list(self.strengths)}; [1, 10] is usual")
        if self.strengths and self._threat.geometry is None:
            raise UserError(f"an adaptive attack perturbs pixels, norm {self.norm} does not; set strengths=[]")
        check_count("adaptive_steps", self.adaptive_steps)
        needed = max(_FEWEST, 2 * int(np.ceil(1 / self.false_positive_rate)))
        if self.calibration_images < needed:
            raise UserError(
                f"calibration_images must be at least {needed} for false_positive_rate={self.false_positive_rate}, got "
                f"{self.calibration_images}; 1000 is usual"
            )

    @property
    def means(self) -> tuple[str, ...]:
        """Arrays whose means are reported."""
        return ("false_positive", "success", "detected", *(("adaptive_detected", "evaded") if self.strengths else ()))

    @property
    def _threat(self) -> Threat:
        return make_threat(self.norm, float(self.epsilon))

    @property
    def passes(self) -> int:
        """Network passes for each image, by which work is divided."""
        return int((as_attack(self.attack).cost or 100) + 6 * self.adaptive_steps * len(self.strengths))

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """Derived statistics; see `results.detection`."""
        attacked = {"positive": "attacked", "negative": "clean", "among": "success"}
        found: dict[str, dict[str, Any]] = {
            "auroc": {"kind": "auroc", **attacked},
            "fpr95": {"kind": "fpr_at_tpr", "rate": 0.95, **attacked},
        }
        if self.strengths:
            adaptive = {"positive": "adaptive", "negative": "clean", "among": "adaptive_success"}
            found["adaptive_auroc"] = {"kind": "auroc", **adaptive}
        return found

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Distributions of scores."""
        shown = [Distribution("clean", "score of clean images"), Distribution("attacked", "score of attacked images")]
        if self.strengths:
            shown.append(Distribution("adaptive", "score under the adaptive attack"))
        return tuple(shown)

    def describe(self) -> dict[str, Any]:
        """Settings as plain values."""
        return {
            **describe_settings(replace(self, detector=_NONE, attack=_unchanged)),
            "detector": self.detector.describe(),
            "attack": as_attack(self.attack).describe(),
        }

    def unattacked(self) -> "Detection":
        """The same with an attack that changes nothing, for a check: attacked scores must be the clean ones."""
        return replace(self, attack=_unchanged, strengths=(), images=None)

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Scores of clean and attacked images.

        Raises:
            UserError: there are too few calibration images, or the detector refuses network or images.
        """
        inputs.check()
        ready = self._calibrate(inputs)
        parts = [self._batch(batch, ready) for batch in inputs.batches()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _calibrate(self, inputs: MeasureInputs) -> _Calibrated:
        images = inputs.calibration
        if images is None or len(images) < self.calibration_images:
            count = 0 if images is None else len(images)
            raise UserError(
                f"detection needs clean images for calibration, got {count} of {self.calibration_images}; give more as "
                "calibration=… of evaluate_robustness, or lower calibration_images"
            )
        images = images[: self.calibration_images]
        key = (
            self.detector,
            id(inputs.network),
            _digest(inputs.network, images),
            inputs.seed,
            self.false_positive_rate,
        )
        if key not in _FITTED:
            half = len(images) // 2
            score = self.detector.fit(inputs.network, images[:half], inputs.seed)
            values = torch.cat([_scores(score, part) for part in torch.split(images[half:], inputs.batch_size)])
            threshold = threshold_of(values, self.false_positive_rate)
            for other in [other for other, ready in _FITTED.items() if ready.network is not inputs.network]:
                del _FITTED[other]
            _FITTED[key] = _Calibrated(inputs.network, score, threshold, float(values.std()) or 1.0)
            while len(_FITTED) > _KEPT:
                _FITTED.pop(next(iter(_FITTED)))
        return _FITTED[key]

    def _batch(self, batch: MeasureInputs, ready: _Calibrated) -> dict[str, npt.NDArray[Any]]:
        images, threat = batch.images, self._threat
        sources = [keyed_generator(batch.seed, int(number)) for number in batch.indices]
        points = self.attack(batch.network, images.clone(), batch.labels.clone(), threat, generator=sources).detach()
        inside = threat.excess(points, images) <= TOLERANCE * max(1.0, threat.epsilon)
        attacked = threat.realize(points, images)
        clean, others = _scores(ready.score, torch.cat([images, attacked])).chunk(
            2
        )  # all in one batch, told apart later
        right = ~misclassified(batch.logits(images), batch.labels)
        success = right & misclassified(batch.logits(attacked), batch.labels) & inside
        nothing = torch.full_like(clean, torch.nan)
        found = {
            "clean": clean,
            "attacked": others,
            "success": success,
            "false_positive": clean > ready.threshold,
            "detected": torch.where(success, (others > ready.threshold).to(clean), nothing),
        }
        if self.strengths:
            best, fooled = evade(self, batch, ready.score, ready.scale)
            best = torch.where(success, torch.minimum(best, others), best)  # who knows more can do this, too
            fooled = (fooled | success) & right
            flagged = best > ready.threshold
            found |= {
                "adaptive": torch.where(fooled, best, nothing),
                "adaptive_success": fooled,
                "adaptive_detected": torch.where(fooled, flagged.to(clean), nothing),
                "evaded": torch.where(right, (fooled & ~flagged).to(clean), nothing),
            }
        return {name: values.cpu().numpy() for name, values in found.items()}


def threshold_of(scores: Tensor, false_positive_rate: float) -> float:
    """Threshold that a new clean image exceeds with at most this probability, if it is drawn like those of the scores.

    The score of rank ⌈(n + 1)(1 - rate)⌉ of n scores. Source: split conformal prediction, arXiv 2107.07511, sec. 1.

    Examples:
        >>> threshold_of(torch.arange(99.0), 0.05)
        94.0
    """
    rank = min(int(np.ceil((len(scores) + 1) * (1 - false_positive_rate) - 1e-9)), len(scores))
    return float(scores.sort().values[rank - 1])


def evade(measure: Detection, batch: MeasureInputs, score: Score, scale: float) -> tuple[Tensor, Tensor]:
    """Lowest scores (B,) of misclassified iterates of an attack that knows the score, and where there are any, (B,).

    Args:
        measure: threat, strengths and steps.
        batch: images that are attacked.
        score: of the detector.
        scale: by which scores are divided.
    """
    threat = cast(ThreatModel, measure._threat)
    images, labels, ascent = batch.images, batch.labels, PGD(steps=measure.adaptive_steps)
    epsilon = images.new_full((len(images),), threat.epsilon)
    lowest, fooled = torch.full_like(epsilon, torch.inf), torch.zeros_like(labels, dtype=torch.bool)
    for strength in measure.strengths:
        memory = ascent.start(threat, images, epsilon, [])
        for step in range(ascent.steps + 1):
            iterate = memory["iterate"]
            logits, scores, gradient = _ascend(batch.network, score, iterate, labels, strength / scale)
            wrong = misclassified(logits, labels)
            lowest = torch.where(wrong & (scores < lowest), scores, lowest)
            fooled |= wrong
            if step < ascent.steps:
                result = Pass(images, epsilon, labels, labels, torch.full_like(labels, step), logits, gradient)
                memory = ascent.step(threat, result, memory)
    return lowest, fooled


def _ascend(
    network: nn.Module, score: Score, iterate: Tensor, labels: Tensor, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K), scores (B,) and the gradient (B, C, H, W) of the cross-entropy minus the weighted score."""
    with torch.enable_grad(), float32(iterate.device):
        variable = iterate.detach().requires_grad_()
        logits, scores = forward(network, variable), score(variable)
        goal = attack_loss("cross_entropy", logits, labels) - weight * scores
        if not goal.requires_grad:
            return logits.detach(), scores.detach(), torch.zeros_like(iterate)
        (gradient,) = torch.autograd.grad(goal.sum(), variable, allow_unused=True)
    return logits.detach(), scores.detach(), torch.zeros_like(iterate) if gradient is None else gradient


def _scores(score: Score, images: Tensor) -> Tensor:
    with torch.no_grad(), float32(images.device):
        return score(images).float()


def _digest(network: nn.Module, images: Tensor) -> str:
    """Digest of a network's weights and of images."""
    content = hashlib.blake2b(digest_size=16)
    for values in (images, *network.state_dict().values()):
        if isinstance(values, Tensor):
            content.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _unchanged(network: nn.Module, images: Tensor, labels: Tensor, threat: Threat, generator: object = None) -> Tensor:
    """An attack that changes nothing."""
    return images if threat.point_shape(images) == tuple(images.shape) else images.new_zeros(threat.point_shape(images))


_unchanged.norms = ("linf", "l2", "l1", "spatial")  # type: ignore[attr-defined]


@final
@dataclass(frozen=True)
class _NoDetector(Detector):
    """Stands where a detector is described apart."""

    def fit(self, network: nn.Module, images: Tensor, seed: int) -> Score:
        raise NotImplementedError


_NONE: Final = _NoDetector()
# The last fitted scores of one network, so that shards of one evaluation fit once and no earlier network stays alive.
_FITTED: dict[Any, _Calibrated] = {}
_KEPT: Final = 4
