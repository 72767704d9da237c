"""Jobs import the code as it was when the sweep started."""

import os
import subprocess
import sys
from pathlib import Path

import symmetry_robustness
from symmetry_robustness.runs.provenance import snapshot

CHECKOUT = Path(symmetry_robustness.__file__).parents[1]


def test_a_job_imports_the_copy_wherever_it_is_started(tmp_path: Path) -> None:
    environment = snapshot(tmp_path)
    for module in ("symmetry_robustness", "symmetry_robustness.runs.main"):
        found = subprocess.run(
            [sys.executable, "-c", f"import {module} as m; print(m.__file__)"],
            cwd=CHECKOUT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (tmp_path / "code").resolve() in Path(found.stdout.strip()).parents


def test_one_copy_for_each_state_of_the_code(tmp_path: Path) -> None:
    assert snapshot(tmp_path) == snapshot(tmp_path)
    (copy,) = (tmp_path / "code").iterdir()
    package = CHECKOUT / "symmetry_robustness"
    for path in package.rglob("*.py"):
        assert (copy / "symmetry_robustness" / path.relative_to(package)).read_bytes() == path.read_bytes()
