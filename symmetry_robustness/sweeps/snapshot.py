"""A copy of the code that a sweep's jobs run, so that editing the checkout does not change jobs that wait."""

import hashlib
import os
import shutil
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
CODE = "code"


def snapshot(sweep: Path) -> dict[str, str]:
    """Copy this package into a sweep's directory, once for each state of it.

    Returns:
        What to add to a job's environment, so that it imports the copy wherever it is started; modules of the user's
        own in PYTHONPATH are found after it and are not copied.
    """
    files = sorted(path for path in _PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    target = sweep / CODE / digest.hexdigest()[:12]
    if not target.exists():
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        for path in files:
            copy = unfinished / _PACKAGE.name / path.relative_to(_PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        try:
            unfinished.rename(target)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not target.exists():
                raise
    own = os.environ.get("PYTHONPATH")
    # Without PYTHONSAFEPATH `python -m` would look in the current directory first, which may be the checkout.
    return {"PYTHONPATH": os.pathsep.join([str(target.resolve()), *([own] if own else [])]), "PYTHONSAFEPATH": "1"}
