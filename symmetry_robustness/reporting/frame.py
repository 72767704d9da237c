"""All numbers of many runs as one tidy table, one row for each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from symmetry_robustness.corruption_names import BENCHMARK, SEVERITIES
from symmetry_robustness.reporting.comparability import data_title, evaluation_data
from symmetry_robustness.reporting.evaluation import Evaluation, measure_name
from symmetry_robustness.reporting.load import Problem, Run, find_runs
from symmetry_robustness.reporting.statistics import mean_and_error, shares_and_errors
from symmetry_robustness.results.names import WORST_CASE, digest
from symmetry_robustness.results.report import Estimate, IntArray, RobustnessReport, share_estimate

# docs/reporting.md explains the columns.
COLUMNS = (
    "run", "network", "group", "data", "seed", "protocol", "released", "split", "view", "measure", "attack", "norm",
    "epsilon", "value", "standard_error", "images", "checks", "commit", "epochs", "weights", "data_seed", "settings",
    "comparison_group",
)  # fmt: skip
# Columns in which rows must agree to be one number of several seeds.
NUMBER = ["settings", "comparison_group", "view", "measure", "attack", "norm", "epsilon"]
# The views of a corrupted data set that the benchmark counts, a corruption's severities together.
CORRUPTED = tuple(f"{name}_{severity}" for name in BENCHMARK for severity in SEVERITIES)
COSTS = (
    "parameters", "flops", "forward_passes", "backward_passes", "training_flops", "training_seconds",
    "images_per_second", "peak_memory",
)  # fmt: skip

# Settings that decide which epoch best.ckpt is of.
_CHOOSING = ("checkpoint", "callback", "robustness")
# Quantiles over images of measures that bound distances from below, whose distribution no robust accuracy states.
QUANTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75}
T = TypeVar("T")
K = TypeVar("K")


def load_runs(paths: Iterable[Path | str] | Path | str) -> pd.DataFrame:
    """Read run and sweep directories into one data frame, a row for each number.

    Accuracies are computed from the results of the single images. Nothing is averaged over runs.

    Args:
        paths: of run directories, or of directories that hold some.

    Returns:
        A frame with `COLUMNS`. `frame.attrs["problems"]` has the directories and files that were left out, as mappings
        with `path`, `kind` and `reason`.

    Raises:
        UserError: a path that does not exist or holds no run at all.

    Examples:
        >>> frame = load_runs(["experiments/first_light/runs"])
        >>> sorted(frame["network"].unique())
        ['parallel_rotation_scale', 'standard']
    """
    runs, problems = find_runs([Path(paths)] if isinstance(paths, str | Path) else map(Path, paths))
    return frame_of(runs, problems)


def frame_of(runs: Sequence[Run], problems: Sequence[Problem] = ()) -> pd.DataFrame:
    """The same from runs that were read; of several numbers of one network and seed the first counts."""
    rows = [row for run in runs for row in _run_rows(run)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"epsilon": float, "value": float, "images": "Int64"})
    frame["epochs"] = frame["epochs"].astype("Int64")
    repeats = frame.duplicated([*NUMBER, "seed", "data_seed"])
    counts = frame[repeats].groupby(["run", "network", "seed"]).size().rename("count").reset_index()
    repeated = [
        Problem(row.run, "repeated", f"{row.count} numbers of {row.network}, seed {row.seed}, that were read before")
        for row in records(counts)
    ]
    frame = frame[~repeats].reset_index(drop=True)
    frame.attrs["problems"] = [problem._asdict() for problem in (*problems, *repeated)]
    return frame


def records(rows: pd.DataFrame) -> list[Any]:
    """Rows as named tuples."""
    return list(rows.itertuples(index=False))


def split(rows: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """Rows by the value of a column, in order of appearance."""
    return {str(value): found for value, found in rows.groupby(column, sort=False)}


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in order of appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_image(values: ArrayLike, numbers: IntArray) -> "pd.Series[Any]":
    """Values (M,) by the numbers of their images; of an image that was given twice the last."""
    found = pd.Series(np.asarray(values), numbers)
    return found[~found.index.duplicated(keep="last")]


def settings_key(run: Run, weights: str) -> str:
    """Digest of all that decides a network's numbers, but for seed and evaluation."""
    chosen_by = {} if weights == "last.ckpt" else {name: run.config.get(name) for name in _CHOOSING}
    return digest(run.name, run.training, weights, chosen_by)


def _run_rows(run: Run) -> Iterator[tuple[Any, ...]]:
    """All rows of a run, in the order of `COLUMNS`."""
    blank = dict.fromkeys(COLUMNS, "") | {"released": False, "epsilon": np.nan, "standard_error": np.nan}
    own = blank | {
        "run": run.place,
        "network": run.name,
        "group": str(run.summary.get("group") or ""),
        "data": data_title(run.config["data"]),
        "seed": run.seed,
        "commit": run.commit,
        "epochs": run.epochs,
        "weights": "last.ckpt",
        "data_seed": run.config["data"].get("seed"),
        "settings": settings_key(run, "last.ckpt"),
    }
    for row in _summary_rows(run):
        yield tuple((own | row).values())
    for evaluation in run.evaluations.values():
        about = own | {
            "data": evaluation.data_title,
            "protocol": evaluation.protocol,
            "released": evaluation.released,
            "split": evaluation.split,
            "norm": evaluation.report.norm,
            "checks": evaluation.status,
            "weights": evaluation.weights,
            "settings": settings_key(run, evaluation.weights),
            "comparison_group": evaluation.comparison_group,
        }
        for row in _evaluation_rows(evaluation):
            yield tuple((about | row).values())


def _summary_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Costs, and accuracy on the whole test sets without attack."""
    for measure in COSTS:
        if run.summary.get(measure) is not None:
            yield {"measure": measure, "value": run.summary[measure], "images": None}
    if run.summary["clean_accuracy"] is None:  # of a saved report, which knows its own images alone
        return
    views = {name: _share(value, run.test_images) for name, value in run.test_sets.items()}
    yield from _whole_test_rows(run.config["data"], views, run.summary["clean_accuracy"], run.test_images)


def _whole_test_rows(
    data: Mapping[str, Any], views: Mapping[str, Estimate], mean: float, images: int | None
) -> Iterator[dict[str, Any]]:
    """Accuracies on all images of each test set, their mean, and the mean corruption error."""
    common = {"split": "test", "images": images, "comparison_group": digest("test", evaluation_data(data, "test"))}
    error = _share(mean, images).standard_error
    if len(views) > 1:
        error = float(np.mean([view.standard_error for view in views.values()]))  # at most; they show the same images
        for name, (value, own, _) in views.items():
            yield common | {"measure": "test_accuracy", "view": name, "value": value, "standard_error": own}
    yield common | {"measure": "test_accuracy", "value": mean, "standard_error": error}
    if corrupted := corruption_error(views):
        yield _number("mean_corruption_error", *corrupted) | common


def _share(value: float, images: int | None) -> Estimate:
    error = float(np.sqrt(value * (1 - value) / images)) if images else np.nan
    return Estimate(value, error, images or 0)


def accuracy_by_test_set(report: RobustnessReport) -> dict[str, Estimate]:
    """Accuracy without attack on the images of each test set that a report states; empty where it states none."""
    names, size = report.provenance.get("test_sets"), report.provenance.get("test_images")
    if not isinstance(names, list) or not isinstance(size, int) or size < 1:
        return {}
    images = {name: report.clean_correct[report.indices // size == at] for at, name in enumerate(names)}
    return {name: share_estimate(correct) for name, correct in images.items() if len(correct)}


def corruption_error(views: Mapping[str, Estimate]) -> Estimate | None:
    """Mean error over the 75 test sets of the corruption benchmark; None where one is missing."""
    cells = [views[name] for name in CORRUPTED if name in views]
    if len(cells) < len(CORRUPTED):
        return None
    value, error = 1 - np.mean([cell.value for cell in cells]), np.mean([cell.standard_error for cell in cells])
    return Estimate(float(value), float(error), sum(cell.images for cell in cells))


def _evaluation_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Accuracies with and without attack, means of measures."""
    report, images = evaluation.report, len(evaluation.report)
    originals = evaluation.original_of(report.indices)
    shares, errors = shares_and_errors(report.clean_correct[:, None], originals)
    yield _number("clean_accuracy", shares[0], errors[0], images)
    yield from _test_set_rows(evaluation)
    for attack in [*report.minimal_epsilon, *([WORST_CASE] if report.minimal_epsilon else [])]:
        shares, errors = shares_and_errors(report.curve(attack), originals)
        kind = {"measure": "worst_case_accuracy"} if attack == WORST_CASE else {"attack": attack}
        for epsilon, share, error in zip(report.epsilons, shares, errors, strict=True):
            yield _number("robust_accuracy", share, error, images) | {"epsilon": epsilon} | kind
    bounds = evaluation.lower_bounds
    for measure, means in evaluation.means.items():
        for array, mean in means.items():
            name = measure_name(measure, array)
            if np.isnan(mean.value):
                continue
            if name not in bounds:
                yield _number(name, *mean) | {"norm": ""}
                continue
            norm = {"norm": bounds[name][2]}
            indices, values = evaluation.whole().per_image(measure, array)
            yield _number(name, *mean_and_error(values, evaluation.original_of(indices)), mean.images) | norm
            for quantile, share in QUANTILES.items():
                yield _number(f"{name}_{quantile}", float(np.quantile(values, share)), np.nan, mean.images) | norm


def _test_set_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The numbers of a training's test, if all test images were evaluated; of some the mean corruption error."""
    views, size = accuracy_by_test_set(evaluation.report), evaluation.report.provenance.get("test_images")
    if len(views) > 1 and all(view.images == size for view in views.values()):
        mean = float(np.mean([view.value for view in views.values()]))
        blank = {"protocol": "", "released": False, "norm": "", "checks": ""}
        yield from (row | blank for row in _whole_test_rows(evaluation.data, views, mean, size))
    elif corrupted := corruption_error(views):
        yield _number("mean_corruption_error", *corrupted)


def _number(measure: str, value: float, error: float, images: int) -> dict[str, Any]:
    return {"measure": measure, "value": value, "standard_error": error, "images": images}
