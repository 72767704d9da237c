"""Two packages are installed apart from the rest; without them one line says how to get them, and the rest works."""

import os
import subprocess
import sys
from pathlib import Path

HIDDEN = """
import sys
sys.modules |= {"escnn": None, "torchattacks": None}  # what an import of a package that is not installed finds
from symmetry_robustness import build_network, load_config
from symmetry_robustness.attacks import PGD, LibraryAttack
from symmetry_robustness.errors import UserError
build_network(load_config("train", ["model=standard_4layer"]))
PGD()
for needy in (
    lambda: build_network(load_config("train", ["model=parallel_rotation_4layer"])),
    lambda: LibraryAttack("APGD"),
):
    try:
        needy()
    except UserError as error:
        print(error)
"""


def test_one_line_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "SYMMETRY_ROBUSTNESS_CACHE": str(tmp_path)}  # with a kept basis escnn is not missed
    command = [sys.executable, "-c", HIDDEN]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for package, line in zip(("escnn", "torchattacks"), done.stdout.splitlines(), strict=True):
        assert f"pip install --no-deps {package}==" in line
