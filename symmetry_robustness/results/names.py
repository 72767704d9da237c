"""Names of results: metrics, epsilons, norms, and the identity of a protocol."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

Settings = Mapping[str, Any]

WORST_CASE: Final = "worst_case"  # stands for all attacks together
# Norms, and other kinds of threats, by the names that settings give them.
NORM_TITLES: Final[Mapping[str, str]] = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1", "spatial": "rotation and shift"}
_UNITS: Final[Mapping[str, str]] = {"spatial": "1 is 30° and 3 pixels"}

# Sound settings, which reports of early versions leave unsaid.
SOUND: Final[Settings] = {
    "judge": "any",
    "mode": "evaluation",
    "outside": "discard",
    "cascade": False,
    "bounds": [0.0, 1.0],
}
# Settings of a protocol that change no number: those of checks, and how a measure is shown.
_CHECKING: Final = ("checks", "expected_clean_accuracy")
_SHOWING: Final = ("title", "plots", "means", "headline", "lower_bound", "upper_bound", "proven", "statistics")
# Classes whose sources state an idea without its formula or settings, so that what runs here is a reconstruction.
RECONSTRUCTIONS: Final = frozenset({
    *("AdaptiveFeatures", "AttributionGuided", "JSIGR", "JointSpace", "LearnFromPast", "OrbitConsistency"),
    *("InSubspace", "OrbitAveraged", "OrbitInconsistency"),
})  # fmt: skip
_PAPER: Final[Settings] = {
    "attacks.fgsm.class": "FGSM",
    "attacks.pgd.class": "PGD",
    "attacks.pgd.steps": 40,
    "attacks.pgd.step_size": 0.005,
    "attacks.pgd.random_start": False,
    "attacks.pgd.iterate": "last",
    "norm": "linf",
    "epsilons": [0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.065, 0.07, 0.075],
    **SOUND,
}
# Files of conf/robustness by the settings that make them up; the first that fits names a protocol.
_KNOWN: Final[Mapping[str, Settings]] = {
    "paper": _PAPER,
    "released_weighted": {**_PAPER, "judge": "returned"},
    "released_rotation_scale": {**_PAPER, "judge": "returned", "mode": "training_statistics"},
    "released_standard": {**_PAPER, "judge": "returned", "bounds": [0.5, 1.0], "outside": "count"},
}
# Released protocols whose settings are those of another, under whose name they are found.
SAME_AS: Final[Mapping[str, str]] = {
    "released_parallel": "released_standard",
    "released_cascaded": "released_standard",
}


def class_title(settings: Settings) -> str:
    """Class of an object as reports name it, by its `_target_` or `class`.

    Examples:
        >>> class_title({"_target_": "symmetry_robustness.training.objectives.NFGSM"})
        'NFGSM'
        >>> class_title({"class": "OrbitAveraged", "steps": 40})
        'OrbitAveraged (reconstruction)'
    """
    return _class_name(settings) + reconstruction(settings)


def reconstruction(settings: Settings) -> str:
    """Text behind the name of an object whose class is a reconstruction, by its settings; else nothing.

    Examples:
        >>> reconstruction({"class": "OrbitAveraged"}), reconstruction({"class": "PGD"})
        (' (reconstruction)', '')
    """
    # The other method of `JointSpace` is published.
    rebuilt = _class_name(settings) in RECONSTRUCTIONS and settings.get("method") != "interpolated"
    return " (reconstruction)" if rebuilt else ""


def _class_name(settings: Settings) -> str:
    return str(settings.get("_target_", settings.get("class", ""))).rpartition(".")[2]


def metric_key(attack: str, norm: str, epsilon: float) -> str:
    """Key of robust accuracy in summaries; `worst_case` stands for all attacks together.

    Examples:
        >>> metric_key("pgd", "linf", 8 / 255), metric_key("worst_case", "l2", 0.5)
        ('robust_accuracy.pgd.linf_0.03137', 'worst_case.l2_0.5')
    """
    prefix = WORST_CASE if attack == WORST_CASE else f"robust_accuracy.{attack}"
    return f"{prefix}.{norm}_{epsilon:.4g}"


def measure_key(measure: str, array: str, headline: str | None = None) -> str:
    """Key of a measure's mean in summaries; that of its headline, the array which stands for it, is its name.

    Examples:
        >>> measure_key("symmetry", "turn.correct"), measure_key("score", "value", headline="value")
        ('measures.symmetry.turn.correct', 'score')
    """
    return measure if array == headline else f"measures.{measure}.{array}"


def measure_title(name: str, measures: Settings) -> str:
    """Title of a measure or of its mean, by the protocol's settings of the measures, which may state one.

    A title that several measures have is told apart by their norms. Without one the measure's name stands for it, and
    a norm at its end is written as in titles.

    Examples:
        >>> measure_title("symmetry.turn.error", {}), measure_title("removal", {"removal": {"title": "tolerance"}})
        ('symmetry turn error', 'tolerance')
        >>> measure_title("blur_entropy.entropy", {"blur_entropy": {"means": ["entropy"]}})
        'blur entropy'
        >>> measure_title("blur_entropy.entropy", {"blur_entropy": {"headline": "spread"}})
        'blur entropy entropy'
        >>> measure_title("distance_linf", {"distance_linf": {"norm": "linf"}})
        'distance ℓ∞'
    """
    measure, _, array = name.partition(".")
    settings = measures.get(measure, {})
    title, norm = settings.get("title"), settings.get("norm", "")
    if title and sum(other.get("title") == title for other in measures.values()) > 1:
        title = f"{title} {NORM_TITLES.get(norm, norm)}"
    title, array = ((text or "").replace("_", " ").replace(".", " ") for text in (title or measure, array))
    # An array that is called as the end of its measure adds nothing, unless another one stands for the measure.
    others = settings.get("headline", array) != array or "value" in (settings.get("means") or ())
    once = f" {title}".endswith(f" {array}") and not others
    if not settings.get("title") and isinstance(norm, str) and f" {title}".endswith(f" {norm}"):
        title = f"{title.removesuffix(norm)}{NORM_TITLES.get(norm, norm)}"
    return (title if once or not array else f"{title} {array}") + reconstruction(settings.get("detector") or {})


def epsilon_name(epsilon: float) -> str:
    """An epsilon of up to 64/255 as a fraction of 255 where it is one (halves up to 8), in decimals otherwise.

    Examples:
        >>> epsilon_name(8 / 255), epsilon_name(0.5 / 255), epsilon_name(0.005), epsilon_name(0.1)
        ('8/255', '0.5/255', '0.005', '0.1')
    """
    steps = round(2 * 255 * epsilon) / 2
    usual = 0 < steps <= 8 or (8 < steps <= 64 and steps.is_integer())
    return f"{steps:g}/255" if usual and abs(255 * epsilon - steps) < 1e-3 else f"{epsilon:.4g}"


def epsilon_label(norm: str) -> str:
    """Label of an axis of epsilons: the threat, and the unit of its sizes.

    Examples:
        >>> epsilon_label("l2"), epsilon_label("spatial")
        ('ε (ℓ2, pixels in [0, 1])', 'ε (rotation and shift, 1 is 30° and 3 pixels)')
    """
    return f"ε ({NORM_TITLES.get(norm, norm)}, {_UNITS.get(norm, 'pixels in [0, 1]')})"


def protocol_settings(settings: Settings) -> dict[str, Any]:
    """All settings of a protocol that decide a number."""
    whole = {**SOUND, "measures": {}, **settings}
    measures = {
        name: {key: value for key, value in measure.items() if key not in _SHOWING}
        for name, measure in whole["measures"].items()
    }
    attacks = {
        name: {key: value for key, value in attack.items() if key != "white_box"}
        if isinstance(attack, Mapping)
        else attack
        for name, attack in whole.get("attacks", {}).items()
    }
    kept = {key: value for key, value in whole.items() if key not in _CHECKING}
    return kept | {"attacks": attacks, "measures": measures}


def is_released(settings: Settings) -> bool:
    """Whether a protocol re-enacts an evaluation with its mistakes instead of judging soundly."""
    protocol = protocol_settings(settings)
    return any(protocol[name] != SOUND[name] for name in ("judge", "mode", "outside", "bounds"))


def protocol_name(settings: Settings) -> str:
    """Name of the file of conf/robustness with these attacks, epsilons and ways of judging; empty for any other.

    Those of `SAME_AS` have the name of the other.
    """
    flat = flatten(protocol_settings(settings))
    attacks = {name.split(".")[1] for name in flat if name.startswith("attacks.")}
    for name, known in _KNOWN.items():
        named = {key.split(".")[1] for key in known if key.startswith("attacks.")}
        if attacks == named and all(flat.get(key) == value for key, value in known.items()):
            return name
    return ""


def flatten(settings: Settings, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; lists are values.

    Examples:
        >>> flatten({"a": {"b": 1, "c": [2]}})
        {'a.b': 1, 'a.c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def digest(*values: object) -> str:
    """Twelve hexadecimal digits that stand for plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]
