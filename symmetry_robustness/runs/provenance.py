"""Where a run comes from: code, command, seed, machine, versions."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.json_files import read_mapping, write_json
from symmetry_robustness.runs.snapshot import package_digest

PROVENANCE: Final = "provenance.json"
_PACKAGES: Final = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "escnn",
    "torchattacks",
    "hydra-core",
    "numpy",
    "wandb",
)


def read_provenance(directory: Path) -> dict[str, Any]:
    """The provenance of a run.

    Raises:
        UserError: the file is damaged or absent.
    """
    content = read_mapping(directory / PROVENANCE)
    if not content or "wandb_id" not in content:
        raise UserError(
            f"{directory / PROVENANCE} is damaged or gone; the same command again writes it anew "
            f"(that of a single job with resume=auto hydra.run.dir={directory})"
        )
    return content


def add_environment(directory: Path) -> None:
    """Add start time, machine, devices and versions to a run's provenance."""
    known = read_provenance(directory)
    started = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(directory / PROVENANCE, known | started | environment(), durable=True)


@functools.cache
def code_version() -> Mapping[str, Any]:
    """Version, digest and commit of this package, and whether its checkout was changed since that commit.

    The first call decides: that is the code which this process has imported.
    """
    here = Path(__file__).parent
    version = {"version": package_version("symmetry-robustness"), "code": package_digest()}
    try:
        commit = _git(here, "rev-parse", "HEAD")
        changed = bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return version | {"commit": None}
    return version | {"commit": commit, "changed_since_commit": changed}


def environment() -> dict[str, Any]:
    """Machine, devices and versions."""
    import torch

    return {
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": available_cores(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES},
    }


def available_cores() -> int | None:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def package_version(name: str) -> str | None:
    """Version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(directory: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", directory, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
