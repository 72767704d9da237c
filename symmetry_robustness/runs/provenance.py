"""Where a run comes from: code, command, seed, machine, versions; and a copy of the code for the jobs of a sweep."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import unused
from symmetry_robustness.runs.json_files import read_mapping, write_json

PROVENANCE: Final = "provenance.json"
CODE: Final = "code"
PACKAGE: Final = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "escnn", "torchattacks", "hydra-core", "numpy", "wandb")


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


def add_own_code(directory: Path) -> None:
    """Add the digests of the user's own modules to a run's provenance, once all of its classes are built."""
    write_json(directory / PROVENANCE, read_provenance(directory) | {"own_code": own_code()}, durable=True)


@functools.cache
def code_version() -> Mapping[str, Any]:
    """Version, digest and commit of this package, and whether its checkout was changed since that commit.

    The first call decides: that is the code which this process has imported.
    """
    version = {"version": package_version("symmetry-robustness"), "code": package_digest()}
    try:
        commit = _git("rev-parse", "HEAD")
        changed = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return version | {"commit": None}
    return version | {"commit": commit, "changed_since_commit": changed}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def hardware_name(device: Any) -> str:
    """Name of a torch device; of a processor with the number of threads that torch uses."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    count = torch.get_num_threads()
    return f"{processor() or platform.machine()}, {count} thread{'s' if count != 1 else ''}"


def environment() -> dict[str, Any]:
    """Machine, devices and versions."""
    import torch

    return {
        "hardware": {
            "machine": platform.machine(),
            "processor": processor(),
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


def own_code() -> dict[str, str]:
    """Digests of the user's own modules: loaded, and neither this package's, nor installed, nor Python's."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        file, package = getattr(module, "__file__", None), name.partition(".")[0]
        if not file or package in ("__main__", "__mp_main__", "symmetry_robustness", "hydra_plugins"):
            continue
        if is_users(str(file)):  # some modules make a Path of it
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    return found


def is_users(file: str) -> bool:
    """Whether a file is Python code, and neither this package's, nor installed, nor Python's."""
    if not file.endswith(".py") or _is_installed(os.path.dirname(file)):  # noqa: PTH120, thousands of modules
        return False
    path = Path(file).resolve()
    return path.is_file() and not _is_installed(str(path.parent))


@functools.cache
def _is_installed(folder: str) -> bool:
    """Whether a folder belongs to this package, to installed packages or to Python."""
    path = Path(folder).resolve()
    return any(path.is_relative_to(place) for place in (PACKAGE, *_installed()))


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Where packages are installed, and where Python is."""
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib"))


def snapshot(sweep: Path) -> dict[str, str]:
    """Copy this package into a sweep's directory, as this process first read it: edits change no waiting job.

    Returns:
        Variables for a job's environment, with which it imports the copy wherever it starts; the user's own modules
        in PYTHONPATH are found after it and are not copied.
    """
    target = sweep / CODE / package_digest()
    if not target.exists():
        unfinished = unused(target)
        try:
            for name, content in _package().items():
                copy = unfinished / PACKAGE.name / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            unfinished.rename(target)
        except OSError as error:
            if not target.exists():  # otherwise another process was faster
                error.filename = str(target)
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    own = os.environ.get("PYTHONPATH")
    # Without PYTHONSAFEPATH `python -m` would look in the current directory first, which may be the checkout.
    return {"PYTHONPATH": os.pathsep.join([str(target.resolve()), *([own] if own else [])]), "PYTHONSAFEPATH": "1"}


@functools.cache
def package_digest() -> str:
    """Digest of this package's files, twelve hexadecimal digits."""
    digest = hashlib.sha256()
    for name, content in _package().items():
        digest.update(f"{name}\0".encode() + content)
    return digest.hexdigest()[:12]


@functools.cache
def _package() -> Mapping[str, bytes]:
    files = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in files}
