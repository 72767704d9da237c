"""Networks: normalise → stem → trunk → head, built from configuration."""

from symmetry_robustness.layers.export import export
from symmetry_robustness.models.build import build_network, build_network_from_untrusted
from symmetry_robustness.models.checkpoint import Checkpoint, load_checkpoint, load_network
from symmetry_robustness.models.trust import require_trusted
from symmetry_robustness.models.weights import load_weights, wrap

__all__ = [
    "Checkpoint",
    "build_network",
    "build_network_from_untrusted",
    "export",
    "load_checkpoint",
    "load_network",
    "load_weights",
    "require_trusted",
    "wrap",
]
