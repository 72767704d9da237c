"""Soundness checks as a report holds them: name, status, evidence; a sentence for each that says what it asks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

Status = Literal["passed", "warned", "failed"]
_SEVERITY: Final[Mapping[Status, int]] = {"passed": 0, "warned": 1, "failed": 2}


class Check(NamedTuple):
    """Outcome of one check: its name, "passed", "warned" or "failed", and the evidence in one line."""

    name: str
    status: Status
    evidence: str

    @classmethod
    def judged(cls, name: str, evidence: str, *, failed: bool = False, warned: bool = False) -> "Check":
        """The check as failed, else as warned, else as passed."""
        return cls(name, "failed" if failed else "warned" if warned else "passed", evidence)

    @property
    def explanation(self) -> str:
        """The condition that the check tests, in a sentence; empty for a check of another version."""
        return EXPLANATIONS.get(self.name, "")


def merge_checks(groups: Iterable[Sequence[Check]]) -> tuple[Check, ...]:
    """Checks of several shards as one list; of each name the worst outcome, the first where they agree.

    Examples:
        >>> merge_checks([[Check("finite_logits", "passed", "a")], [Check("finite_logits", "failed", "b")]])
        (Check(name='finite_logits', status='failed', evidence='b'),)
    """
    merged: dict[str, Check] = {}
    for check in (check for group in groups for check in group):
        known = merged.get(check.name)
        if known is None or _SEVERITY[check.status] > _SEVERITY[known.status]:
            merged[check.name] = check
    return tuple(merged.values())


def count_checks(checks: Iterable[Check]) -> dict[Status, int]:
    """How many checks passed, warned and failed."""
    counts: dict[Status, int] = dict.fromkeys(_SEVERITY, 0)
    for check in checks:
        counts[check.status] += 1
    return counts


def worst_status(statuses: Iterable[Status]) -> Status | None:
    """The worst of several statuses; None where there is none.

    Examples:
        >>> worst_status(["passed", "failed", "warned"])
        'failed'
    """
    return max(statuses, key=_SEVERITY.__getitem__, default=None)


EXPLANATIONS: Final[Mapping[str, str]] = {
    "protocol_settings": "The protocol judges soundly: pixel bounds [0, 1], evaluation mode, nothing outside the ball.",
    "epsilon_range": "The largest epsilon has the usual size of its norm; others are often meant for other units.",
    "several_classes": "The images belong to several classes; of one, a network that always names it withstands all.",
    "distinct_images": "No image appears more than once; repetitions make intervals too narrow.",
    "evaluation_mode": "No layer that normalises or drops out is in training mode, where it sees the attacked batch.",
    "images_in_bounds": "Pixels lie in [0, 1] and in the bounds of the attacks; otherwise epsilon has other units.",
    "random_outputs": "The same images give the same logits each time; chance in the network hides its gradients.",
    "softmax_outputs": "The network returns logits, not probabilities, which saturate and hide its gradients.",
    "optimization_in_forward": "The network takes no gradients of its own; one that adapts to its input needs more.",
    "batch_independent": "An image's logits do not depend on the images beside it.",
    "inside_ball": "The images of an attack lie in its ball and in the bounds; what seeks short changes finds some.",
    "finite_logits": "Logits of clean images are finite.",
    "finite_gradients": "Input gradients are finite; an attack cannot follow others.",
    "zero_gradients": "Input gradients are not exactly zero; zeros mean that something hides them.",
    "gradient_matches_difference": "The gradient tells how the logits change when the pixels change a little.",
    "stable_under_noise": "Noise of one grey level leaves clean accuracy as it is; stored images are not recognised.",
    "sees_whole_range": "Pixels of every brightness matter; a network that clamps its input is blind to some.",
    "statistics_match": "The first batch norm meets the means and variances of training: images are normalised once.",
    "normalized_once": "No usual normalisation, added or undone, makes the network much more accurate.",
    "clean_accuracy": "Clean accuracy is above guessing and as high as expected; otherwise labels or images are wrong.",
    "falls_with_epsilon": "Robust accuracy does not rise with epsilon.",
    "iterative_at_least_single": "Attacks of many steps break at least as many images as attacks of one.",
    "step_reaches_edge": "All steps together are long enough to reach the edge of the ball.",
    "enough_steps": "The longest attack takes at least ten steps; shorter ones stop before they arrive.",
    "zero_at_large_epsilon": "An attack that may turn every image grey breaks nearly all of them.",
    "longer_attack": "Twice the steps from a random start break hardly any image that is left standing.",
    "other_loss": "The same attack with another loss breaks hardly any image that is left standing.",
    "noise_attack": "Random noise breaks hardly any image that the attacks leave standing.",
    "transfer_attack": "Images crafted on a copy that hides no gradients break hardly any that is left standing.",
    "gradient_free_attack": "A search without gradients (Square) breaks hardly any image that is left standing.",
    "square_better_than_white_box": "Square, which needs no gradient, breaks hardly any image that gradients left.",
    "enough_classes": "The network has as many classes as each attack needs; those that need more were left out.",
    "measures_defined": "Each mean of a measure is a number; NaN for all images mostly comes from a mistake in it.",
    "same_preprocessing": "A detector gives unchanged images the same score, called clean or attacked.",
    "false_positive_rate": "A detector calibrated on other clean images flags as many clean images as it is set to.",
    "certificates_below_distance": "No image was broken within its certified radius; else one of the two is wrong.",
    "catastrophic_overfitting": "Training images that withstand FGSM withstand PGD; else one step is all it learned.",
    "bounds_below_distance": "Estimated lower bounds stay below the length of changes that broke images.",
}
