"""Protocols as reports state them: whether they judge soundly, and what they are called."""

from symmetry_robustness.results.names import NORM_TITLES as NORMS
from symmetry_robustness.results.names import SAME_AS as SAME_AS
from symmetry_robustness.results.names import SOUND, Settings, protocol_settings
from symmetry_robustness.results.names import is_released as is_released
from symmetry_robustness.results.names import protocol_name as protocol_name


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
    if protocol["bounds"] != SOUND["bounds"]:
        low, high = protocol["bounds"]
        words.append(f"pixels clamped to [{low:g}, {high:g}]")
    return "; ".join(words)


def describe_attack(name: str, settings: Settings) -> str:
    """An attack by its name, number of steps and restarts, as in `PGD-40`."""
    steps, restarts = settings.get("steps"), settings.get("restarts", 1)
    title = name.replace("_", " ")
    title = title.upper() if title in ("fgsm", "pgd") else title
    return f"{title}{f'-{steps}' if steps else ''}{f' × {restarts}' if restarts > 1 else ''}"
