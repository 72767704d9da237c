"""A copy of the code for the jobs of a sweep, so that edits of the checkout do not change waiting jobs."""

import functools
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from symmetry_robustness.files import unused

_PACKAGE = Path(__file__).resolve().parents[1]
CODE = "code"


def snapshot(sweep: Path) -> dict[str, str]:
    """Copy this package into a sweep's directory, as this process first read it.

    Returns:
        Variables for a job's environment, with which it imports the copy wherever it starts; the user's own modules
        in PYTHONPATH are found after it and are not copied.
    """
    target = sweep / CODE / package_digest()
    if not target.exists():
        unfinished = unused(target)
        try:
            for name, content in _package().items():
                copy = unfinished / _PACKAGE.name / name
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
    files = sorted(path for path in _PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(_PACKAGE).as_posix(): path.read_bytes() for path in files}
