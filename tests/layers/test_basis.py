"""Bases do not depend on which numpy escnn runs on, nor on the function of three dimensions that it imports.

bases.npz holds them as `steerable_basis` gave them with escnn 1.0.11, lie_learn 0.0.2 and numpy 1.26.4, the releases
that escnn declares; each array is named by the arguments and the attribute.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from symmetry_robustness.layers.basis import steerable_basis

REFERENCE = Path(__file__).with_name("bases.npz")
CASES = sorted({name.rpartition(" ")[0] for name in np.load(REFERENCE).files})


@pytest.mark.parametrize("case", CASES)
def test_bases_are_those_of_the_releases_that_escnn_declares(case, tmp_path, monkeypatch):
    monkeypatch.setenv("SYMMETRY_ROBUSTNESS_CACHE", str(tmp_path))  # solved for here, not read
    group, in_representation, out_representation, size = case.split()
    basis = steerable_basis.__wrapped__(group, in_representation, out_representation, int(size))
    reference = np.load(REFERENCE)
    for name, values in basis._asdict().items():
        expected = torch.from_numpy(reference[f"{case} {name}"])
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)  # the last bit is the libraries'


IMPORT = """
import sys
from symmetry_robustness.layers.basis import steerable_basis
print(tuple(steerable_basis("C2", "trivial", "regular", 3).filters.shape), [n for n in sys.modules if "lie_learn" in n])
"""


@pytest.mark.parametrize(
    "broken",
    ["raise ModuleNotFoundError(__name__)", "raise ValueError('numpy.dtype size changed')", "raise ImportError('ABI')"],
    ids=["absent", "other numpy", "other ABI"],
)
def test_escnn_works_in_the_plane_beside_a_lie_learn_that_does_not(broken, tmp_path):
    (tmp_path / "lie_learn").mkdir()
    (tmp_path / "lie_learn" / "__init__.py").write_text(broken)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SYMMETRY_ROBUSTNESS_CACHE": str(tmp_path / "kernels")}
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "(6, 2, 1, 3, 3) []\n", done.stderr
