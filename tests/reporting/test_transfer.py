"""The transfer matrix of runs whose reports are made by hand."""

from pathlib import Path

import numpy as np

from symmetry_robustness.reporting.load import find_runs
from symmetry_robustness.reporting.transfer import transfer_figures, transfer_rows

from .made import EPSILONS, SETTINGS, make_report, make_run


def test_two_names_of_one_source_are_two_rows(tmp_path: Path) -> None:
    broken_at = np.full(4, np.inf)
    attacks = {f"mi_from_{name}": {"source": {"name": name, "digest": "d"}} for name in ("a_b", "a b")}
    found = {attack: np.where(np.arange(4) < count, EPSILONS[0], broken_at) for count, attack in enumerate(attacks)}
    make_run(tmp_path / "run", make_report(found, settings=SETTINGS | {"attacks": attacks}))
    runs, _ = find_runs([tmp_path])
    rows = transfer_rows(runs)
    last = rows[rows["evaluation"] == rows["evaluation"].iloc[-1]]
    assert dict(zip(last["source"], last["robust_accuracy"], strict=True)) == {"a b, a_b": 1.0, "a b, a b": 0.75}
    assert len([*transfer_figures(rows)]) == len(EPSILONS)
