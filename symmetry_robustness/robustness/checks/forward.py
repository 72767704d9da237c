"""Soundness checks of the network itself, without any attack: its mode, its outputs, images close to the clean ones."""

import cProfile
import sys
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import AttackCall, as_attack
from symmetry_robustness.attacks.validation import are_probabilities, forward, predict, training_layers
from symmetry_robustness.engine.continuous_batching import misclassified
from symmetry_robustness.precision import float32
from symmetry_robustness.results.checks import Check
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.measures.base import MeasureInputs

# Length of a change too small to bend a network much, and large enough for float32 to show it.
SMALL_STEP: Final = 1 / 512
# Batches times momentum from which on running statistics have forgotten where they started, to a hundredth.
_SETTLED: Final = 5
_BINS: Final = 10
_REPEATED: Final = 32  # images that pass several times
# Standard deviations by which lost predictions exceed gained ones before the difference counts.
_DEVIATIONS: Final = 2.5


def draw(sample: MeasureInputs, *key: int) -> Tensor:
    """Uniform numbers in [0, 1) of the images' shape, a function of seed and key."""
    return torch.rand(sample.images.shape, generator=keyed_generator(sample.seed, *key)).to(sample.images.device)


def batch_independent(sample: MeasureInputs) -> Check:
    """Half of a batch, in another order, gives the same logits as the whole. Source: arXiv 1902.06705, sec. 5."""
    name, half = "batch_independent", len(sample.images) // 2
    if half < 2:
        return Check(name, "passed", "too few images to compare a batch with its half")
    whole = sample.logits(sample.images)[:half]
    worst = float((sample.logits(sample.images[:half].flip(0)).flip(0) - whole).abs().nan_to_num(0.0).max())
    size = float(whole.abs().nan_to_num(0.0).max())
    evidence = f"logits of {half} images differ by up to {worst:.2g} (largest logit {size:.2g})"
    return Check.judged(name, evidence, failed=worst > 0.01 * size)


def sees_whole_range(sample: MeasureInputs) -> Check:
    """Redrawing all pixels of a tenth of [0, 1] within that tenth changes the logits."""
    name = "sees_whole_range"
    reference, fresh, blind = sample.logits(sample.images), draw(sample, 2), []
    for number in range(_BINS):
        low, high = number / _BINS, (number + 1) / _BINS
        chosen = (sample.images >= low) & (sample.images <= high)
        if float(chosen.float().mean()) < 0.01:
            continue  # too few pixels to matter
        moved = torch.where(chosen, low + (high - low) * fresh, sample.images)
        if torch.equal(sample.logits(moved), reference):
            blind.append(f"[{low:g}, {high:g}]")
    if blind:
        return Check(name, "failed", f"no logit changes with the pixels in {', '.join(blind)}")
    return Check(name, "passed", f"logits of {len(reference)} images change with pixels of every brightness")


def stable_under_noise(sample: MeasureInputs, correct: Tensor) -> Check:
    """Noise of one grey level, as rounding to bytes makes, leaves clean accuracy as it is.

    A network that has stored the test images and answers from memory does not recognise them. Images that noise turns
    right count against those that it turns wrong, so that an honest network near its limits loses nothing.

    Args:
        sample: the images.
        correct: (n,) whether each image is classified correctly without noise.
    """
    low, high = (float(value) for value in torch.aminmax(sample.images))
    noise = torch.where(draw(sample, 3) < 0.5, -1 / 255, 1 / 255)
    right = ~misclassified(sample.logits((sample.images + noise).clamp(low, high)), sample.labels).cpu()
    lost, gained = int((correct & ~right).sum()), int((right & ~correct).sum())
    drop = (lost - gained) / len(correct)
    surely = lost - gained > _DEVIATIONS * (lost + gained) ** 0.5
    evidence = f"noise of one grey level takes {lost} of {int(correct.sum())} correct predictions and gives {gained}"
    return Check.judged("stable_under_noise", evidence, failed=surely and drop > 0.1, warned=surely and drop > 0.03)


def optimization_in_forward(sample: MeasureInputs) -> Check:
    """The network takes no gradients while it predicts. Source: arXiv 2003.01690, flags of the implementation.

    Every way to a gradient leads through autograd's engine, by whichever name it is called.
    """
    calls = 0

    def note(frame: object, event: str, called: object) -> None:
        nonlocal calls
        calls += event == "c_call" and getattr(called, "__name__", "") == "run_backward"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        with torch.enable_grad(), float32(sample.images.device):
            forward(sample.network, sample.images)
    finally:
        sys.setprofile(None)
        if isinstance(before, cProfile.Profile):  # which is no function
            before.enable()
        else:
            sys.setprofile(before)
    name = "optimization_in_forward"
    if calls:
        detail = f"one pass takes {calls} gradients; attack the adaptation, too, since AutoAttack may not suffice"
        return Check(name, "warned", detail)
    return Check(name, "passed", f"a pass of {len(sample.images)} images takes no gradients")


def statistics_match(sample: MeasureInputs) -> Check:
    """The first batch norm with weights meets the statistics it has learned; normalising twice multiplies variances.

    Without such a layer nothing can be compared, and the check passes and says so.
    """
    name = "statistics_match"
    met: list[tuple[nn.modules.batchnorm._BatchNorm, Tensor]] = []

    def note(module: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        if not met:
            met.append((module, inputs[0].detach()))

    layers = [layer for layer in sample.network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    fixed = [layer for layer in layers if layer.affine and not layer.training]
    learned = [layer for layer in fixed if layer.running_mean is not None and bool(layer.running_mean.any())]
    hooks = [layer.register_forward_pre_hook(note) for layer in learned]
    try:
        sample.logits(sample.images)
    finally:
        for hook in hooks:
            hook.remove()
    if not met:
        return Check(name, "passed", "no trained batch norm in evaluation mode to compare with")
    layer, values = met[0]
    batches = layer.num_batches_tracked
    if layer.momentum and batches is not None and batches * layer.momentum < _SETTLED:
        return Check(name, "passed", f"the first batch norm has learned from {batches} batches only")
    assert layer.running_mean is not None
    assert layer.running_var is not None
    channels = values.transpose(0, 1).flatten(1).double()
    spread = layer.running_var.double() + layer.eps
    shift = float(((channels.mean(1) - layer.running_mean).abs() / spread.sqrt()).median())
    factor = float(((channels.var(1) + layer.eps) / spread).log2().abs().median().exp2())
    evidence = f"means are off by {shift:.2g} standard deviations, variances by a factor of {factor:.2g}"
    evidence = f"{evidence} (medians over channels, {len(sample.images)} images)"
    return Check.judged(name, evidence, warned=not (shift <= 1 and factor <= 2))


def evaluation_mode(network: nn.Module) -> Check:
    """No normalisation or dropout layer is in training mode: they would see the attacked batch."""
    names = training_layers(network)
    if names:
        return Check("evaluation_mode", "failed", f"{len(names)} layers in training mode, first {names[0]}")
    return Check("evaluation_mode", "passed", "no normalisation or dropout layer is in training mode")


def random_outputs(network: nn.Module, images: Tensor, attacks: Mapping[str, AttackCall] | None = None) -> Check:
    """Repeated passes give the same logits; randomness hides gradients. Source: arXiv 1802.00420; 2003.01690 (flags).

    A random network is no failure where every attack averages over draws.
    """
    logits, few = predict(network, images), images[:_REPEATED]
    passes = [predict(network, images), *(predict(network, few) for _ in range(3))]
    difference = torch.stack([(found[: len(few)] - logits[: len(few)]).abs() for found in passes]).nan_to_num(0.0)
    difference = torch.cat([difference.flatten(), (passes[0] - logits).abs().flatten()])
    size = float(logits.nan_to_num(0.0).abs().max()) if logits.numel() else 0.0
    worst = float(difference.nan_to_num(0.0).max()) if difference.numel() else 0.0
    # GPU kernels may sum in another order from call to call.
    evidence = f"logits of {len(images)} images differ by at most {worst:.2g} between passes"
    if worst <= 1e-4 * max(1.0, size):
        return Check("random_outputs", "passed", evidence)
    draws = min((rule.draws for rule in map(as_attack, (attacks or {}).values())), default=1)
    if draws > 1:
        return Check("random_outputs", "warned", f"{evidence}; every attack averages over {draws} passes or more")
    return Check("random_outputs", "failed", f"{evidence}; use robustness=autoattack_rand, or switch the chance off")


def softmax_outputs(logits: Tensor) -> Check:
    """Outputs are no probabilities, whose loss saturates. Source: arXiv 2003.01690, flags of the implementation."""
    if are_probabilities(logits):
        evidence = "outputs lie in [0, 1] and sum to 1 for each image; return the logits"
        return Check("softmax_outputs", "failed", evidence)
    return Check("softmax_outputs", "passed", "outputs are no probabilities")
