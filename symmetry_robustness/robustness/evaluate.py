"""`evaluate_robustness`: one network, one protocol, one report."""

import contextlib
import functools
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import as_attack, loss_gradient
from symmetry_robustness.attacks.validation import (
    check_classes,
    check_gradients_exist,
    check_images,
    check_indices,
    check_labels,
    device_of,
    predict,
)
from symmetry_robustness.engine.continuous_batching import CleanPass, misclassified
from symmetry_robustness.engine.fusion import fuse
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.report import RobustnessReport, concatenate
from symmetry_robustness.robustness.attack_batch import (
    AttackResult,
    EvaluationBatch,
    Progress,
    ProgressCallback,
    apply_attack,
    cascade,
    ignore,
)
from symmetry_robustness.robustness.checks import derived, forward, setup
from symmetry_robustness.robustness.checks.run import run_checks
from symmetry_robustness.robustness.measures.base import MeasureInputs
from symmetry_robustness.robustness.measures.run import add_measures
from symmetry_robustness.robustness.protocol import EvaluationProtocol, require_protocol

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Images evaluated together: bounds memory, and is so large that half-empty last batches cost little.
_WINDOW: Final = 4096


def evaluate_robustness(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: EvaluationProtocol,
    *,
    indices: Tensor | Sequence[int] | IntArray | None = None,
    compiled: bool = False,
    progress: ProgressCallback | None = None,
    extra_checks: bool = True,
    calibration: Tensor | None = None,
) -> RobustnessReport:
    """Measure clean accuracy, robustness under the protocol's attacks, its measures, and whether to believe it.

    The network's mode, parameters, buffers and gradients and all global random states are afterwards as before. Results
    of an image depend on the network, the image, its number and the protocol, not on the images evaluated with it
    (attacks of a library draw their randomness per call and are the exception).

    Args:
        network: images in [0, 1] to logits (B, K), in evaluation mode.
        images: float32 (N, C, H, W), on the network's device.
        labels: (N,) int64.
        protocol: what is to be measured.
        indices: (N,) numbers of the images in their data set; without it 0, 1, 2, ...
        compiled: let torch.compile build the network for gradient attacks, with CUDA graphs on a GPU. It takes a minute
            and a C++ compiler, and pays where the attacks take many.
        progress: called now and then with how far each stage has come.
        extra_checks: whether `add_checks` is part of it; False where the caller does that for a larger report.
        calibration: (n, C, H, W) clean images that are none of those evaluated, for measures that are calibrated.

    Raises:
        UserError: for unsuitable images, labels or indices, or a call inside inference mode.

    Examples:
        >>> from symmetry_robustness.attacks import PGD
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> protocol = EvaluationProtocol(attacks={"pgd": PGD(steps=10)}, epsilons=[0.04, 0.06])
        >>> report = evaluate_robustness(nn.Flatten().eval(), images, labels, protocol)
        >>> report.minimal_epsilon["pgd"]  # the brightest channel is ahead by 0.1, so 0.05 suffices
        array([0.06])
    """
    started = time.perf_counter()
    inputs = validate_inputs(network, images, labels, protocol, indices)
    if calibration is not None:
        inputs = inputs._replace(calibration=check_images(calibration).to(inputs.images.device))
    images, numbers = inputs.images, inputs.indices
    with _untouched(network, images.device):
        protocol = protocol.against(network, images[:2])
    keep = _lowest(numbers, protocol.keep_examples)
    with _in_mode(network, protocol.mode), _untouched(network, images.device):
        forms = _prepare(network, images[: protocol.batch_size], compiled)
        parts = []
        for start in range(0, max(len(images), 1), _WINDOW):
            window = slice(start, start + _WINDOW)
            notify = functools.partial(_notify_whole, progress or ignore, start, len(images))
            parts.append(_evaluate(forms, inputs.take(window), protocol, keep[window], notify))
        report = concatenate(parts)
        order = np.argsort(numbers[keep])
        report = replace(report, examples={name: shown[order] for name, shown in report.examples.items()})
        report = add_measures(inputs, protocol, report, progress or ignore)
        if extra_checks:
            report = add_checks(inputs, protocol, report)
    report = replace(report, counts={**report.counts, "seconds": time.perf_counter() - started})
    return derived.add_derived_checks(report, protocol.attacks)


def add_checks(inputs: MeasureInputs, protocol: EvaluationProtocol, report: RobustnessReport) -> RobustnessReport:
    """The report with the checks that follow from the protocol or pass some of its images through the network again.

    The images are those of the report, in its order, on any device; the network is afterwards as before.
    """
    started = time.perf_counter()
    device = device_of(inputs.network, inputs.images)
    with _in_mode(inputs.network, protocol.mode), _untouched(inputs.network, device):
        found = run_checks(inputs, protocol, report)
    seconds = report.counts.get("seconds", 0.0) + time.perf_counter() - started
    return replace(report, checks=(*report.checks, *found), counts={**report.counts, "seconds": seconds})


class _Forms(NamedTuple):
    """The network in three forms that compute the same; `compiled`, for one shape, only where it was asked for."""

    network: nn.Module
    attacked: nn.Module
    compiled: nn.Module | None


def _prepare(network: nn.Module, images: Tensor, compiled: bool) -> _Forms:
    attacked = fuse(network, images)
    if not compiled:
        return _Forms(network, attacked, None)
    # The compiler looks at the gradients of its inputs, which are copies and need none.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    mode = "reduce-overhead" if images.device.type == "cuda" else "default"  # the former uses CUDA graphs
    return _Forms(network, attacked, cast(nn.Module, torch.compile(attacked, dynamic=False, mode=mode)))


def validate_inputs(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: EvaluationProtocol,
    indices: Tensor | Sequence[int] | IntArray | None,
) -> MeasureInputs:
    """Network, images, labels and the numbers of the images, if they can be evaluated, converted where that is safe.

    Pixels outside of the bounds are no error here but the finding of a soundness check.

    Raises:
        UserError: names the input and the remedy.
    """
    check_gradients_exist("evaluate_robustness")
    require_protocol(protocol)
    images = check_images(images, (-np.inf, np.inf))
    labels = check_labels(labels, images)
    numbers = check_indices(indices, len(images))
    if (device := device_of(network, images)) != images.device:
        raise UserError(f"network is on {device} but images are on {images.device}; move one of them")
    if protocol.attacks and len(images) and not bool(torch.isfinite(images).all()):
        raise UserError("images must be finite, got NaN or infinity; check the data")
    if len(images):
        with _untouched(network, images.device):
            check_classes(labels, predict(network, images[:2]).shape[1])
    return MeasureInputs(network, images.detach(), labels, numbers, protocol.seed, protocol.batch_size)


def _lowest(numbers: IntArray, count: int) -> BoolArray:
    """Mask, (N,), of the images with the lowest numbers."""
    mask = np.zeros(len(numbers), dtype=bool)
    mask[np.argsort(numbers, kind="stable")[:count]] = True
    return mask


def _notify_whole(progress: ProgressCallback, before: int, total: int, state: Progress) -> None:
    progress(state.within(before, total))


@contextlib.contextmanager
def _in_mode(network: nn.Module, mode: str) -> Iterator[None]:
    """Let batch norms use the batch at hand where the mode says so; those without weights normalise the input."""
    kind = nn.modules.batchnorm._BatchNorm
    layers = [m for m in network.modules() if isinstance(m, kind) and m.affine] if mode != "evaluation" else []
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.train(training)


@contextlib.contextmanager
def _untouched(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Put global random states back, and the buffers that a pass has changed, as layers in training mode do."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, copy in buffers:
                    if not torch.equal(buffer, copy):
                        buffer.copy_(copy)


def _clean_pass(inputs: MeasureInputs, notify: ProgressCallback) -> CleanPass:
    """One pass that gives predictions, the evidence about gradients, and the first step of most attacks."""
    inputs = inputs._replace(notify=lambda done: notify(Progress("clean", done, len(inputs.images))))
    parts = [
        loss_gradient(batch.network, batch.images.contiguous(memory_format=torch.channels_last), batch.labels)
        for batch in inputs.batches()
    ]
    return CleanPass(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _evaluate(
    forms: _Forms, inputs: MeasureInputs, protocol: EvaluationProtocol, keep: BoolArray, notify: ProgressCallback
) -> RobustnessReport:
    """Report of one window of images, without measures."""
    images, labels, numbers = inputs.images, inputs.labels, inputs.indices
    checks = [forward.evaluation_mode(forms.network), setup.images_in_bounds(images, protocol.bounds)]
    if not len(images):
        return _empty_report(images, protocol, checks)
    checks.append(forward.random_outputs(forms.network, images[: protocol.batch_size], protocol.attacks))
    network = forms.attacked
    clean = _clean_pass(inputs._replace(network=network), notify)
    checks.append(forward.softmax_outputs(clean.logits))
    checks.append(setup.enough_classes(protocol.attacks, clean.logits.shape[1]))
    correct = ~misclassified(clean.logits, labels).cpu().numpy()
    limit = np.full(len(images), np.inf)
    batch = EvaluationBatch(
        network, images, labels, numbers, protocol, clean, correct, keep, notify, limit, forms.compiled
    )
    outcomes, effort = _apply_all(batch)
    checks.append(derived.inside_ball([line for outcome in outcomes.values() for line in outcome.violations]))
    finite = torch.isfinite(clean.logits).all(1)
    return RobustnessReport(
        norm=protocol.norm,
        epsilons=protocol.grid,
        indices=numbers,
        labels=labels.cpu().numpy(),
        predictions=torch.where(finite, clean.logits.argmax(1), -1).cpu().numpy(),
        minimal_epsilon={name: outcome.minimal_epsilon for name, outcome in outcomes.items()},
        distance={name: outcome.distance for name, outcome in outcomes.items()},
        fooled={name: outcome.fooled for name, outcome in outcomes.items() if outcome.fooled is not None},
        passes={name: outcome.passes for name, outcome in outcomes.items() if outcome.passes is not None},
        examples=_examples(images, np.flatnonzero(keep), outcomes),
        checks=tuple(checks),
        settings=protocol.describe(),
        counts=_counts(clean, correct, outcomes) | effort,
    )


def _apply_all(batch: EvaluationBatch) -> tuple[dict[str, AttackResult], dict[str, float]]:
    """All attacks of the protocol; in a cascade also how many images each was given, and broke further."""
    protocol = batch.protocol
    if not protocol.cascade:
        return {name: apply_attack(batch, name, attack) for name, attack in protocol.attacks.items()}, {}
    start = np.where(batch.correct, np.inf, 0.0)
    outcome, outcomes, effort = AttackResult(start, start, {}, []), {}, {}
    for name, attack in protocol.attacks.items():
        batch = batch._replace(known_epsilon=outcome.minimal_epsilon)
        effort[f"given.{name}"] = float(batch.attackable.sum())
        outcome = outcomes[name] = cascade(outcome, apply_attack(batch, name, attack))
        effort[f"broken.{name}"] = float((outcome.minimal_epsilon < batch.known_epsilon).sum())
    return outcomes, effort


def _empty_report(images: Tensor, protocol: EvaluationProtocol, checks: Sequence[Check]) -> RobustnessReport:
    nothing = np.zeros(0)
    shape = (0, *images.shape[1:])
    return RobustnessReport(
        norm=protocol.norm,
        epsilons=protocol.grid,
        indices=nothing.astype(np.int64),
        labels=nothing.astype(np.int64),
        predictions=nothing.astype(np.int64),
        minimal_epsilon={name: nothing for name in protocol.attacks},
        distance={name: nothing for name in protocol.attacks},
        fooled={n: np.zeros((0, len(protocol.grid)), dtype=bool) for n in protocol.attacks if protocol.judge != "any"},
        passes={
            n: nothing.astype(np.int64) for n, a in protocol.attacks.items() if as_attack(a).update_rule is not None
        },
        examples={name: np.zeros(shape, dtype=np.float32) for name in ("clean", *protocol.attacks)},
        checks=tuple(checks),
        settings=protocol.describe(),
    )


def _counts(clean: CleanPass, correct: BoolArray, outcomes: dict[str, AttackResult]) -> dict[str, float]:
    """Numbers that add up over windows and shards: the evidence of some checks, and the cost."""
    gradient = clean.gradient.flatten(1)
    zero = (gradient == 0).all(1).cpu().numpy() & correct
    nonfinite = int((~torch.isfinite(gradient.sum(1))).sum())
    return {
        "nonfinite_logits": float((~torch.isfinite(clean.logits)).any(1).sum()),
        "nonfinite_gradients": float(nonfinite + sum(outcome.nonfinite for outcome in outcomes.values())),
        "zero_gradients": float(zero.sum()),
        "gradients.clean": float(len(correct)),
        **{f"gradients.{name}": float(outcome.gradients) for name, outcome in outcomes.items()},
    }


def _examples(images: Tensor, rows: IntArray, outcomes: dict[str, AttackResult]) -> dict[str, npt.NDArray[np.float32]]:
    """Clean and adversarial images (k, C, H, W) of the kept rows."""
    shape = (len(rows), *images.shape[1:])
    examples = {"clean": images[torch.as_tensor(rows, device=images.device)].cpu().numpy().reshape(shape)}
    for name, outcome in outcomes.items():
        shown = [outcome.adversarial.get(int(row), images[row]).cpu().numpy() for row in rows]
        examples[name] = np.stack(shown) if shown else np.zeros(shape, dtype=np.float32)
    return examples
