"""The printed rows of an evaluation say what each attack of a cascade broke, at what cost, and what was left out."""

import numpy as np

from symmetry_robustness.app.evaluation import table_rows
from symmetry_robustness.results import RobustnessReport
from symmetry_robustness.results.checks import Check

ROWS = np.arange(4)
BROKEN = {"apgd_ce": np.array([0.1, np.inf, np.inf, np.inf]), "square": np.array([0.1, 0.1, np.inf, np.inf])}
COUNTS = {"given.apgd_ce": 4.0, "broken.apgd_ce": 1.0, "given.square": 3.0, "broken.square": 1.0}
PASSES = {"apgd_ce": np.array([3, 101, 101, 101]), "square": np.array([0, 40, 5001, 5001])}


def report(evidence: str, counts: dict[str, float]) -> RobustnessReport:
    checks = (Check("enough_classes", "passed", evidence),)
    return RobustnessReport(
        "linf", (0.1,), ROWS, ROWS, ROWS, BROKEN, BROKEN, passes=PASSES, checks=checks, counts=counts
    )


def test_rows_of_a_cascade_have_what_each_attack_broke_and_cost() -> None:
    rows = table_rows(report("10 classes", COUNTS))
    assert rows["apgd ce breaks"] == "1 of 4, 76 passes each"
    assert rows["square breaks"] == "1 of 3, 3,347 passes each"
    assert "left out" not in rows
    assert not any(name.endswith("breaks") for name in table_rows(report("10 classes", {})))


def test_what_few_classes_leave_out_is_said() -> None:
    line = "3 classes; apgd_t needs 4 and is left out"
    assert table_rows(report(line, COUNTS))["left out"] == line
