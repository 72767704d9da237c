"""Numbers of single runs brought together: means over seeds with intervals, and which network is best."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from symmetry_robustness.reporting.comparability import differing, name_differences, readable
from symmetry_robustness.reporting.evaluation import Evaluation
from symmetry_robustness.reporting.frame import NUMBER, grouped, records, settings_key, split
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.statistics import (
    LEVEL,
    Difference,
    holm,
    independent,
    interval,
    paired_difference,
    share_interval,
    undecided,
)
from symmetry_robustness.results.names import WORST_CASE, protocol_name

# Accuracies by which networks are compared image by image, beside measures that bound distances from below.
ATTACKED = ("clean_accuracy", "robust_accuracy", "worst_case_accuracy")
# Measures that are shares of images.
SHARES = (*ATTACKED, "test_accuracy", "mean_corruption_error")
# Columns that must agree for the numbers of several networks to be compared.
COLUMN = ["comparison_group", "view", "measure", "attack", "norm", "epsilon"]

_DESCRIBED = ["network", "data", "split", "protocol", "released", "weights", "epochs", "images"]
_FAILED = "failed soundness checks and cannot lead, whatever the number"
_GUESSING = "cannot lead: without attack not better than chance"
_STATES = ["", "passed", "warned", "failed"]

# Evaluations of one network in one comparison group, by seed and seed of the data.
Seeds = dict[tuple[int, Any], Evaluation]


class ComparisonGroup(NamedTuple):
    """Facts that numbers share which may be compared.

    `known` is the name of the file in conf/robustness whose attacks and judging are the protocol's, empty where there
    is none; `description` says the protocol in words; `training_differs_in` names the settings, beside the network's
    own, in which the trainings of the networks differ; `images` is None where it is not known.
    """

    key: str
    data: str
    split: str
    protocol: str
    known: str
    released: bool
    description: str
    images: int | None
    training_differs_in: str


class Summary(NamedTuple):
    """Numbers of many runs.

    Attributes:
        results: one row per number of each network: mean over seeds, interval, whether it is the best.
        comparisons: one row per network that was compared with the leader of its column.
        groups: facts that the numbers of a comparison group share, by its key.
        guessing: settings of the networks whose accuracy without attack is that of guessing.
        measures: settings of the measures that were made, by name; of several the first.
        elsewhere: settings of the networks whose trainings are not known here.
        trained: all that decides the weights of a network, by its settings.
    """

    results: pd.DataFrame
    comparisons: pd.DataFrame
    groups: dict[str, ComparisonGroup]
    guessing: frozenset[str]
    measures: dict[str, Any]
    elsewhere: frozenset[str]
    trained: Mapping[str, Mapping[str, Any]]

    @property
    def trained_elsewhere(self) -> str:
        """A sentence that names the networks trained elsewhere, if others were trained here; or else empty."""
        apart = self.results["settings"].isin(self.elsewhere)
        names = map(readable, self.results.loc[apart, "label"].unique())
        return (
            f"Trained elsewhere, with settings that are not known here: {'; '.join(names)}."
            if 0 < apart.mean() < 1
            else ""
        )


def summarize(frame: pd.DataFrame, runs: Sequence[Run]) -> Summary:
    """Means over seeds, and the comparisons that decide which is the best; docs/reporting.md explains the columns.

    Only numbers that agree in everything but the seed are averaged.

    Args:
        frame: of `frame_of`.
        runs: the same runs; their per-image results decide which network is best.
    """
    frame = frame.copy(deep=False)
    frame.attrs = {}  # pandas copies them at every step
    frame["state"] = frame["checks"].map(_STATES.index)
    by_number = frame.groupby(NUMBER, dropna=False, sort=False)
    results = by_number[_DESCRIBED].first()
    results["value"], results["standard_error"] = by_number["value"].mean(), by_number["standard_error"].mean()
    results["seeds"] = by_number.size()
    results["seed_list"] = by_number["seed"].agg(lambda seeds: " ".join(map(str, seeds)))
    results["checks"] = by_number["state"].max().map(_STATES.__getitem__)
    results["commits"] = by_number["commit"].nunique()
    results["runs"] = by_number["run"].agg(tuple)
    deviation = np.asarray(by_number["value"].std(), np.float64)
    results = results.reset_index()
    _add_intervals(results, deviation)
    trained = trained_settings(runs)
    results.insert(0, "label", _labels(results, trained, runs))
    guessing = _at_chance(frame, runs)
    comparisons = _compare(results, evaluations_by_group(runs), guessing)
    _mark_best(results, comparisons)
    declared = [evaluation.measures for run in runs for evaluation in run.evaluations.values()]
    measures = {name: settings for found in reversed(declared) for name, settings in found.items()}
    elsewhere = frozenset(key for key, training in trained.items() if "trainer" not in training)
    return Summary(results, comparisons, _groups(results, runs, trained), guessing, measures, elsewhere, trained)


def _add_intervals(results: pd.DataFrame, deviation: NDArray[np.float64]) -> None:
    """Add `low`, `high` and `interval`, which says what the interval is over; NaN and empty where there is none."""
    value, error, seeds, images = (
        results[name].astype("Float64").to_numpy(np.float64, na_value=np.nan)
        for name in ("value", "standard_error", "seeds", "images")
    )
    is_share, known = results["measure"].isin(SHARES), ~np.isnan(error)
    results["low"], results["high"] = interval(value, error, images, deviation, seeds, is_share)
    of_images = [f"{count} images" for count in results["images"]]
    also = np.where(known, " and their images", "")
    of_seeds = [f"{count} seeds{images}" for count, images in zip(results["seeds"], also, strict=True)]
    results["interval"] = np.select([seeds > 1, known], [of_seeds, of_images], "")


def trained_settings(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """All that decides the weights, by settings key."""
    return {
        settings_key(run, weights): {"weights": weights, **run.training}
        for run in runs
        for weights in ("last.ckpt", *(evaluation.weights for evaluation in run.evaluations.values()))
    }


def _at_chance(frame: pd.DataFrame, runs: Sequence[Run]) -> frozenset[str]:
    """Settings of the networks that guess: on the most images without attack, Wilson's interval of each seed says so.

    Seeds that differ widen the interval of their mean, which is no evidence that any of them guesses.
    """
    configs = {run.name: run.config for run in runs}
    stated = {name: ((config.get("model") or {}), config["data"]) for name, config in configs.items()}
    classes = {name: model.get("num_classes", data.get("num_classes")) for name, (model, data) in stated.items()}
    chance = {name: 1 / count if count else -1.0 for name, count in classes.items()}  # of unknown classes none
    clean = frame[frame["measure"].isin(["clean_accuracy", "test_accuracy"]) & (frame["view"] == "")]
    images = clean["images"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    low, _ = share_interval(clean["value"], clean["standard_error"], images)
    low = np.where(np.isnan(low), clean["value"], low)
    clean = clean.assign(images=np.nan_to_num(images), guesses=low <= clean["network"].map(chance))
    most = clean[clean["images"] == clean.groupby("settings")["images"].transform("max")]
    guesses = most.groupby("settings")["guesses"].all()
    return frozenset(guesses.index[guesses])


def may_lead(rows: Sequence[Any], guessing: Collection[str]) -> list[Any]:
    """Rows of a column that may lead it, the largest first: better than guessing, no check failed; all if none is."""
    better = [row for row in rows if row.settings not in guessing] or rows
    able = [row for row in better if row.checks != "failed"] or better
    return sorted(able, key=lambda row: -row.value)


def set_aside(rows: Sequence[Any], guessing: Collection[str]) -> dict[str, list[Any]]:
    """Rows of a column that may not lead it, by the reason."""
    able = set(map(id, may_lead(rows, guessing)))
    found: dict[str, list[Any]] = {}
    for row in (row for row in rows if id(row) not in able):
        found.setdefault(_FAILED if row.checks == "failed" else _GUESSING, []).append(row)
    return found


def network_titles(runs: Sequence[Run]) -> dict[str, str]:
    """Title of each network by its name; the name itself where several networks share a title."""
    titles = {run.name: run.title for run in runs}
    counts = Counter(titles.values())
    return {name: title if counts[title] == 1 else name for name, title in titles.items()}


def run_titles(runs: Sequence[Run]) -> dict[str, str]:
    """Title of each run by its place: its network's, and how it was trained where the network was in several ways."""
    titles = network_titles(runs)
    found: dict[str, str] = {}
    for name, same in grouped(runs, lambda run: run.name).items():
        differences = name_differences([run.training for run in same])
        found |= {run.place: _with(titles[name], text) for run, text in zip(same, differences, strict=True)}
    return found


def _with(title: str, difference: str) -> str:
    return f"{title} ({difference})" if difference else title


def _labels(results: pd.DataFrame, trained: Mapping[str, dict[str, Any]], runs: Sequence[Run]) -> list[str]:
    """Label of each row's network: its title, and how it differs from others of its name in its comparison group."""
    titles = network_titles(runs)
    texts: dict[tuple[str, str], str] = {}
    for group, found in split(results.drop_duplicates(["comparison_group", "settings"]), "comparison_group").items():
        for network, same in split(found, "network").items():
            differences = name_differences([trained[key] for key in same["settings"]])
            for key, difference in zip(same["settings"], differences, strict=True):
                texts[group, key] = _with(titles[network], difference)
    return [texts[pair] for pair in zip(results["comparison_group"], results["settings"], strict=True)]


def _groups(
    results: pd.DataFrame, runs: Sequence[Run], trained: Mapping[str, dict[str, Any]]
) -> dict[str, ComparisonGroup]:
    """Facts that the numbers of each group share, and settings beside the network in which its trainings differ."""
    protocols = {
        evaluation.comparison_group: (protocol_name(evaluation.report.settings), evaluation.description)
        for run in runs
        for evaluation in run.evaluations.values()
    }
    groups = {}
    for key, found in split(results[results["comparison_group"] != ""], "comparison_group").items():
        row = records(found.head(1))[0]
        trainings = [trained[network] | {"model": None} for network in found["settings"].unique()]
        here = [training for training in trainings if "trainer" in training]
        differ = differing(here or trainings)
        known, description = protocols.get(key, ("", "no attack"))
        images = None if pd.isna(row.images) else int(row.images)
        about = (row.data, row.split, row.protocol, known, row.released, description, images)
        groups[key] = ComparisonGroup(key, *about, ", ".join(name.removesuffix("._target_") for name in differ))
    return groups


def evaluations_by_group(runs: Sequence[Run]) -> dict[tuple[str, str], Seeds]:
    """Evaluations by comparison group and settings; of several of one seed the first counts, as in the frame."""
    found: dict[tuple[str, str], Seeds] = {}
    for run in runs:
        seed = (run.seed, run.config["data"].get("seed"))
        for evaluation in run.evaluations.values():
            seeds = found.setdefault((evaluation.comparison_group, settings_key(run, evaluation.weights)), {})
            seeds.setdefault(seed, evaluation)
    return found


def _compare(
    results: pd.DataFrame, evaluations: dict[tuple[str, str], Seeds], guessing: Collection[str]
) -> pd.DataFrame:
    """Each network against the one with the largest mean of those that may lead, column by column."""
    rows: list[dict[str, Any]] = []
    bounds = {
        name for seeds in evaluations.values() for evaluation in seeds.values() for name in evaluation.lower_bounds
    }
    for _, group in results[results["measure"].isin({*ATTACKED, *bounds})].groupby(COLUMN, dropna=False, sort=False):
        leader, *others = may_lead(records(group), guessing)
        if not others:
            continue
        first = evaluations[leader.comparison_group, leader.settings]
        found = [
            compare(first, evaluations[row.comparison_group, row.settings], row.measure, row.attack, row.epsilon)
            for row in others
        ]
        adjusted = holm([result.p_value for result in found])
        about = {name: getattr(leader, name) for name in (*COLUMN, "label", "settings")}
        # A comparison that could not be made is NaN, and not won; one training each says nothing of the next.
        about["best"] = bool(np.all(adjusted <= 1 - LEVEL)) and all(result.seeds > 1 for result in found)
        for other, result, p_value in zip(others, found, adjusted, strict=True):
            names = {"other": other.label, "other_settings": other.settings, "adjusted": p_value}
            rows.append(about | names | result._asdict())
    fields = [*COLUMN, "label", "other", *Difference._fields, "settings", "other_settings", "adjusted", "best"]
    return pd.DataFrame(rows, columns=fields)


def compare(
    first: Seeds, second: Seeds | None, measure: str, attack: str = "", epsilon: float = 0.0, *, coverage: float = 0.0
) -> Difference:
    """Two networks on the same images, by the seeds they have in common; NaN where they have none, or other images.

    Args:
        first: evaluations of a network.
        second: of the other one; None compares with a network that is always 0.
        measure: that is compared.
        attack: under which; empty where there is none.
        epsilon: of the attack, pixel units.
        coverage: share of all images there are that were evaluated.
    """
    common = list(first) if second is None else [seed for seed in first if seed in second]
    if not common:
        return undecided("no seed in common")
    both = [first] if second is None else [first, second]
    pairs = [_per_image(evaluations[seed], measure, attack, epsilon) for evaluations in both for seed in common]
    if len({images for images, _ in pairs}) > 1:
        return undecided("not on the same images", len(common))
    values = np.stack([found for _, found in pairs]).reshape(len(both), len(common), -1)
    other = np.zeros_like(values[0]) if second is None else values[1]
    return paired_difference(values[0], other, coverage=coverage)


def _per_image(evaluation: Evaluation, measure: str, attack: str, epsilon: float) -> tuple[str, NDArray[np.float64]]:
    """Digest of the images' numbers, and one value for each image that is independent of the others."""
    report = evaluation.report
    if measure in ATTACKED:
        clean = measure == "clean_accuracy"
        correct = report.clean_correct if clean else report.correct(attack or WORST_CASE, epsilon)
        return evaluation.images_key, independent(correct.astype(np.float64), evaluation.original_of(report.indices))
    name, _, array = measure.partition(".")
    indices, values = evaluation.whole().per_image(name, array or "value")
    return str(hash(indices.tobytes())), independent(values, evaluation.original_of(indices))


def _mark_best(results: pd.DataFrame, comparisons: pd.DataFrame) -> None:
    """Add `best`, and `p_value`: of the difference to the leader, adjusted; of the leader the largest of all."""
    keys = [*COLUMN, "settings"]
    found = comparisons.fillna({"epsilon": -1})  # NaN finds nothing in an index
    leading = found.groupby(keys, sort=False)
    largest = leading["adjusted"].agg(lambda values: values.max(skipna=False))
    own = found.drop(columns="settings").rename(columns={"other_settings": "settings"}).set_index(keys)["adjusted"]
    index = pd.MultiIndex.from_frame(results[keys].fillna({"epsilon": -1}))
    results["p_value"] = pd.concat([largest, own]).reindex(index).to_numpy(np.float64)
    won = leading["best"].first()
    results["best"] = index.isin(won.index[won.astype(bool)])
