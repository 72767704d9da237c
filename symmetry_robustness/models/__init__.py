"""Networks: normalise → stem → trunk → head, built from configuration."""

from symmetry_robustness.models.build import build_network, build_network_from_untrusted
from symmetry_robustness.models.checkpoint import load_network
from symmetry_robustness.models.network import export

__all__ = ["build_network", "build_network_from_untrusted", "export", "load_network"]
