"""Protocols as reports state them: whether they judge soundly, and what they are called."""

from typing import Any

from symmetry_robustness.reporting.comparability import Settings, flatten

NORMS = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1"}
# Sound settings, which reports of early versions leave unsaid.
_SOUND: Settings = {"judge": "any", "mode": "evaluation", "outside": "discard", "cascade": False, "bounds": [0.0, 1.0]}
_UNSAID: Settings = {**_SOUND, "measures": {}}
# Settings of a protocol that change no number.
_CHECKING = ("checks", "expected_clean_accuracy")
_PAPER: dict[str, Any] = {
    "attacks.fgsm.class": "FGSM",
    "attacks.pgd.class": "PGD",
    "attacks.pgd.steps": 40,
    "attacks.pgd.step_size": 0.005,
    "attacks.pgd.random_start": False,
    "attacks.pgd.iterate": "last",
    "norm": "linf",
    "epsilons": [0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.065, 0.07, 0.075],
    **_SOUND,
}
# Files of conf/robustness by the settings that make them up; the first that fits names a protocol.
_KNOWN: dict[str, Settings] = {
    "paper": _PAPER,
    "released_weighted": _PAPER | {"judge": "returned"},
    "released_rotation_scale": _PAPER | {"judge": "returned", "mode": "training_statistics"},
    "released_standard": _PAPER | {"judge": "returned", "bounds": [0.5, 1.0], "outside": "count"},
}
# Released protocols whose settings are those of another, under whose name they are found.
SAME_AS = {"released_parallel": "released_standard", "released_cascaded": "released_standard"}


def protocol_settings(settings: Settings) -> dict[str, Any]:
    """All of a protocol that decides a number."""
    return {key: value for key, value in {**_UNSAID, **settings}.items() if key not in _CHECKING}


def is_released(settings: Settings) -> bool:
    """Whether a protocol re-enacts an evaluation with its mistakes instead of judging soundly."""
    protocol = protocol_settings(settings)
    return any(protocol[name] != _SOUND[name] for name in ("judge", "mode", "outside", "bounds"))


def describe_protocol(settings: Settings) -> str:
    """A protocol in a line: attacks, norm, and whatever is not as it should be."""
    protocol = protocol_settings(settings)
    attacks = [describe_attack(name, attack) for name, attack in protocol.get("attacks", {}).items()]
    words = [", ".join(attacks) or "no attacks", NORMS.get(norm := protocol["norm"], norm)]
    if protocol["cascade"]:
        words.append("each attack on what those before it left")
    if protocol["judge"] == "returned":
        words.append("only the last iterate counts")
    if protocol["mode"] != "evaluation":
        words.append("batch norms use the attacked batch")
    if protocol["bounds"] != _SOUND["bounds"]:
        low, high = protocol["bounds"]
        words.append(f"pixels clamped to [{low:g}, {high:g}]")
    return "; ".join(words)


def describe_attack(name: str, settings: Settings) -> str:
    """An attack by its name, number of steps and restarts, as in `PGD-40`."""
    steps, restarts = settings.get("steps"), settings.get("restarts", 1)
    title = name.replace("_", " ")
    title = title.upper() if title in ("fgsm", "pgd") else title
    return f"{title}{f'-{steps}' if steps else ''}{f' × {restarts}' if restarts > 1 else ''}"


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
