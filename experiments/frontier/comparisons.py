"""`python experiments/frontier/comparisons.py [RUNS]` prints worst-case accuracies and prices, then comparisons.

These are the worst-case accuracy of each symmetric network minus that of the standard one under the same training,
paired over seeds and images: the planned ones first, then all.
"""

import math
import sys
from pathlib import Path

from symmetry_robustness.reporting.aggregate import Seeds, compare, summarize
from symmetry_robustness.reporting.frame import frame_of, grouped
from symmetry_robustness.reporting.load import Run, find_runs
from symmetry_robustness.reporting.statistics import Difference, holm
from symmetry_robustness.reporting.table_formats import Cell, Table, markdown
from symmetry_robustness.reporting.tradeoff import defence, tradeoffs
from symmetry_robustness.results.names import epsilon_name

STANDARD = "standard_4layer"
SYMMETRIC = ("parallel_rotation_4layer_matched", "parallel_rotation_scale_4layer_matched", "invariant_4layer")
PLANNED = (("CrossEntropy", 1 / 255), ("PGDTraining", 4 / 255))
EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)


def main() -> None:
    """One table for the questions of the plan, one for whatever else was run."""
    runs, problems = find_runs(map(Path, sys.argv[1:] or [Path(__file__).parent / "runs"]))
    for problem in problems:
        print(f"left out: {problem}")
    failed = [run.place for run in runs if run.evaluations["test"].status == "failed"]
    print(f"{len(runs)} runs; a soundness check failed in {', '.join(failed) or 'none'}\n")
    show_prices(runs)
    trained = {
        key: {run.seed: run.evaluations["test"] for run in same}
        for key, same in grouped(runs, lambda run: (run.name, defence(run.training))).items()
    }
    rows = []
    for training, epsilon in PLANNED:
        found = [difference(trained, network, training, epsilon) for network in SYMMETRIC]
        adjusted = holm([one.p_value for one in found])
        for network, one, p_value in zip(SYMMETRIC, found, adjusted, strict=True):
            rows.append([training, epsilon_name(epsilon), network, points(one), str(one.seeds), f"{p_value:.2g}"])
    columns = ["training", "ε", "network", "minus standard, points", "seeds", "p (Holm over three)"]
    show("Planned comparisons", columns, rows)
    trainings = dict.fromkeys(training for _, training in trained)
    rows = [
        [training, network, *(points(difference(trained, network, training, epsilon)) for epsilon in EPSILONS)]
        for training in trainings
        for network in SYMMETRIC
    ]
    show("All differences", ["training", "network", *(f"ε = {epsilon_name(one)}" for one in EPSILONS)], rows)


def show_prices(runs: list[Run]) -> None:
    """Price of each pair in FLOPs and its worst-case accuracy, mean of the seeds: standard first, then the others."""
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for found in tradeoffs(summarize(frame_of(runs, []), runs), runs):
        if any(math.isclose(found.epsilon, epsilon, rel_tol=1e-6) for epsilon in EPSILONS):
            for point in found.points:
                row = cells.setdefault(point.defence, {})
                price, accuracy = found.price(point, "training_flops"), 100 * point.row.value
                row.setdefault("x standard, FLOPs", {})[point.row.network] = f"{price:.3g}"
                row.setdefault(f"ε = {epsilon_name(found.epsilon)}", {})[point.row.network] = f"{accuracy:.0f}"
    columns = [*next(iter(cells.values()))]
    rows = [
        [training, *(" / ".join(row[column].get(name, "–") for name in (STANDARD, *SYMMETRIC)) for column in columns)]
        for training, row in sorted(cells.items())
    ]
    show("Prices and worst-case accuracies in %", ["training", *columns], rows)


def difference(trained: dict[tuple[str, str], Seeds], network: str, training: str, epsilon: float) -> Difference:
    """Of the seeds that both networks have."""
    pair = (trained.get((name, training), {}) for name in (network, STANDARD))
    return compare(*pair, "worst_case_accuracy", epsilon=epsilon)


def points(one: Difference) -> str:
    """With its 95 % interval, which needs images on which the networks differ."""
    if not one.seeds:
        return "not run"
    if one.low == one.high:
        return "0 (alike on every image)"
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    print(markdown(Table(title, columns, [[*map(Cell, row)] for row in rows])))


if __name__ == "__main__":
    main()
