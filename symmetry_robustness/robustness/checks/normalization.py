"""Soundness check of the normalisation: whether a network gets its images as it was trained on them."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor

from symmetry_robustness.engine.continuous_batching import misclassified
from symmetry_robustness.results.checks import Check, Status
from symmetry_robustness.robustness.measures.base import MeasureInputs

# Usual means and standard deviations. Those of CIFAR and ImageNet differ by less than matters here.
_USUAL: Final = ((0.5, 0.5), (0.47, 0.25))
_BYTES: Final = 255.0
# Gains of accuracy that count, and by how many standard deviations gained images exceed lost ones.
_WARNED, _FAILED, _DEVIATIONS = 0.1, 0.3, 4.0


class _Guess(NamedTuple):
    """A mistake that may have been made, in words, and the images (n, C, H, W) that would make up for it."""

    mistake: str
    images: Tensor


def normalized_once(sample: MeasureInputs, correct: Tensor) -> Check:
    """No usual normalisation, added or undone, makes the network much more accurate.

    A network that misses its normalisation gets it from outside, one that normalises twice gets images on which the
    second time undoes the first. An honest network loses by either, whatever it was trained on: images that turn right
    count against those that turn wrong, and chance alone gains so much less than once in ten thousand evaluations.

    Args:
        sample: the images.
        correct: (n,) whether each is classified correctly as it is.
    """
    name, total = "normalized_once", len(correct)
    if float(correct.float().mean()) > 1 - _WARNED:
        return Check(name, "passed", f"{int(correct.sum())} of {total} images are right: too many to gain much")
    best, gain, surely = "", 0, False
    for guess in _guesses(sample.images):
        right = ~misclassified(sample.logits(guess.images), sample.labels).cpu()
        gained, lost = int((right & ~correct).sum()), int((correct & ~right).sum())
        if gained - lost > gain:
            best, gain = guess.mistake, gained - lost
            surely = gain > _DEVIATIONS * (gained + lost) ** 0.5
    share = gain / total if surely else 0.0
    status: Status = "failed" if share > _FAILED else "warned" if share > _WARNED else "passed"
    if status == "passed":
        return Check(name, status, f"of {total} images no usual normalisation, added or undone, turns many right")
    return Check(name, status, f"{int(correct.sum())} of {total} images are right, {gain} more {best}")


def _guesses(images: Tensor) -> Iterator[_Guess]:
    for mean, std in _USUAL:
        values = f"mean={mean:g} std={std:g}"
        yield _Guess(f"with {values} in front: is the normalisation missing?", (images - mean) / std)
        yield _Guess(f"with {values} undone: does the network normalise by itself?", torch.add(mean, images, alpha=std))
    yield _Guess("with pixels up to 255: was it trained on bytes? (mean=0 std=1/255)", images * _BYTES)
