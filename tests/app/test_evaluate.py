import importlib
from pathlib import Path

import pytest

from symmetry_robustness.app.evaluate import own_code


def test_a_report_is_of_the_code_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "an_attack_of_mine.py"
    file.write_text("STEPS = 10\n")
    importlib.import_module("an_attack_of_mine")
    before = own_code()
    assert "an_attack_of_mine" in before
    assert not {"torch", "json", "symmetry_robustness.app.evaluate"} & set(before)
    file.write_text("STEPS = 20\n")
    after = own_code()
    assert {name for name in before if before[name] != after.get(name)} == {"an_attack_of_mine"}
