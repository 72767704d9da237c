"""Jobs import the code as it was when the sweep started."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import symmetry_robustness
from symmetry_robustness.runs.provenance import own_code, snapshot
from tests.integration.commands import TINY, symrob

LOSS = """
from torch.nn import functional
class Own:
    def __call__(self, network, images, labels):
        logits = network(images)
        return functional.cross_entropy(logits, labels), logits
"""
CHECKOUT = Path(symmetry_robustness.__file__).parents[1]


def test_a_job_imports_the_copy_wherever_it_is_started(tmp_path: Path) -> None:
    environment = snapshot(tmp_path)
    found = subprocess.run(
        [sys.executable, "-c", "import symmetry_robustness as m, symmetry_robustness.runs.main as n; print(m, n)"],
        cwd=CHECKOUT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.count(f" from '{(tmp_path / 'code').resolve()}/") == 2


def test_one_copy_for_each_state_of_the_code(tmp_path: Path) -> None:
    assert snapshot(tmp_path) == snapshot(tmp_path)
    (copy,) = (tmp_path / "code").iterdir()
    package = CHECKOUT / "symmetry_robustness"
    for path in package.rglob("*.py"):
        assert (copy / "symmetry_robustness" / path.relative_to(package)).read_bytes() == path.read_bytes()


def test_a_report_is_of_the_code_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "an_attack_of_mine.py"
    file.write_text("STEPS = 10\n")
    importlib.import_module("an_attack_of_mine")
    before = own_code()
    assert "an_attack_of_mine" in before
    assert not {"torch", "json", "symmetry_robustness.app.evaluation"} & set(before)
    file.write_text("STEPS = 20\n")
    after = own_code()
    assert {name for name in before if before[name] != after.get(name)} == {"an_attack_of_mine"}


def test_a_run_states_the_digests_of_the_user_s_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_loss_of_mine.py").write_text(LOSS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    words = ["objective._target_=a_loss_of_mine.Own", "~objective.label_smoothing"]
    done = symrob("train", *TINY, *words, "hydra.run.dir=run", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(LOSS.encode()).hexdigest()[:12]
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["own_code"]["a_loss_of_mine"] == digest


def test_a_module_may_make_a_path_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("of_mine")
    vars(module)["__file__"] = tmp_path / "of_mine.py"
    monkeypatch.setitem(sys.modules, "of_mine", module)
    (tmp_path / "of_mine.py").write_text(LOSS)
    assert own_code()["of_mine"] == hashlib.sha256(LOSS.encode()).hexdigest()[:12]
