"""A search: a sweep whose jobs Optuna proposes from the results of earlier ones; started again it continues."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.files import locked
from symmetry_robustness.runs.directory import NON_RESULT_KEYS, SUMMARY, is_done
from symmetry_robustness.runs.json_files import read_mapping
from symmetry_robustness.sweeps.plan import PlannedJob

JOURNAL: Final = "search.journal"
_LOCK: Final = ".search.lock"
_SETTINGS: Final = "settings"  # attribute of the study: the settings it was started with


@final
@dataclass(frozen=True)
class Search:
    """Asks Optuna for trials, runs them as jobs of a sweep, and tells Optuna the scores in their summary.json.

    A job that failed, or whose score is not finite, is a failed trial; the search continues. Trials that a killed
    process has abandoned are run again, so that their jobs resume from their checkpoints.

    Args:
        score: the number of summary.json to optimise, e.g. `robust_accuracy.pgd.linf_0.01569`.
        direction: "maximize" or "minimize".
        n_trials: how many altogether, those of earlier starts included.
        n_jobs: how many are proposed at once; how many run at once is up to the launcher.
        sampler: proposes the trials.
        params: setting -> values as in a sweep, e.g. `{"optimizer.lr": "tag(log, interval(1e-4, 1e-2))"}`.

    Raises:
        UserError: a setting out of its range.
    """

    score: str
    direction: str
    n_trials: int
    n_jobs: int
    sampler: BaseSampler
    params: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise UserError(f"hydra.sweeper.direction must be maximize or minimize, got {self.direction!r}")
        for name in ("n_trials", "n_jobs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"hydra.sweeper.{name} must be a positive number, got {value!r}")

    def run(
        self,
        directory: Path,
        overrides: Sequence[str],
        loader: ConfigLoader,
        launch: Callable[[Sequence[Sequence[str]]], Sequence[JobReturn]],
    ) -> None:
        """Search until there are `n_trials` trials, and print the best.

        Args:
            directory: of the sweep.
            overrides: as the user typed them; they take precedence over `params`.
            loader: as in `search_space`.
            launch: runs one job for each list of overrides and returns planned jobs.

        Raises:
            UserError: the directory holds another search, a damaged one or one that is running; or no job has a score.
        """
        if "resume=auto" in overrides:
            raise UserError("a search continues wherever hydra.sweep.dir holds one; leave out resume=auto")
        given = [*(f"{name}={values}" for name, values in (self.params or {}).items()), *overrides]
        fixed, space = search_space(given, loader)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with locked(directory / _LOCK):
                study = self._study(directory, given)
                trials = study.get_trials()
                done = sum(trial.state.is_finished() for trial in trials)
                # No job has seen a trial without all parameters: its process was killed while it asked.
                abandoned: list[Any] = [
                    trial for trial in trials if not trial.state.is_finished() and len(trial.params) == len(space)
                ]
                if done:
                    print(f"search {directory}: {done} trials done before", flush=True)
                while done < self.n_trials:
                    number = min(self.n_jobs, self.n_trials - done)
                    batch = [abandoned.pop(0) if abandoned else study.ask(dict(space)) for _ in range(number)]
                    values = ([f"{name}={value}" for name, value in trial.params.items()] for trial in batch)
                    for trial, job in zip(batch, launch([[*fixed, *own] for own in values]), strict=True):
                        score = self._score_of(job)
                        study.tell(trial.number, score, TrialState.FAIL if score is None else TrialState.COMPLETE)
                    done += number
        except BlockingIOError as error:
            raise UserError(f"another process is searching in {directory}; wait for it or stop it") from error
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            raise UserError(f"none of {done} trials has a result; see summary.json and log.txt in {directory}/*")
        best = " ".join(f"{name}={value}" for name, value in study.best_params.items())
        print(f"best of {done} trials: {self.score} = {study.best_value:.4g} with {best}", flush=True)

    def _study(self, directory: Path, given: Sequence[str]) -> optuna.Study:
        """The study of the directory, new or from an earlier start with the same settings."""
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # failed trials are printed here
        study = load_study(directory, self.direction, self.sampler)
        if study.get_trials(deepcopy=False):
            self.sampler.reseed_rng()  # a seeded sampler would propose the first trials again
        decisive = [word for word in given if word.lstrip("+~").partition("=")[0].split(".")[0] not in NON_RESULT_KEYS]
        settings = [self.score, self.direction, *sorted(decisive)]
        before = study.user_attrs.get(_SETTINGS, settings)
        if before != settings:
            differing = " ".join(word for word in [*before, *settings] if (word in before) != (word in settings))
            raise UserError(
                f"{directory} holds a search with other settings ({differing}); choose another hydra.sweep.dir"
            )
        study.set_user_attr(_SETTINGS, settings)
        return study

    def _score_of(self, job: JobReturn) -> float | None:
        """Print and return the score of a trial's job; None for a failed trial."""
        planned = job.return_value
        if not isinstance(planned, PlannedJob):
            raise UserError("a search needs a launcher of this project: hydra/launcher=local, parallel or slurm")
        score = score_of(planned.directory, self.score)
        shown = "failed" if score is None else f"{self.score} = {score:.4g}"
        print(f"trial {' '.join(planned.overrides)}: {shown}", flush=True)
        return score


def search_space(
    overrides: Sequence[str], loader: ConfigLoader | None = None
) -> tuple[list[str], dict[str, BaseDistribution]]:
    """Split overrides into fixed ones and distributions; the last override of a setting counts.

    Args:
        overrides: in Hydra's syntax, such as `model=a,b`, `seed=range(3)` or `optimizer.lr=interval(1e-4, 1e-2)`.
        loader: knows the options of the configuration's groups, for `glob`.

    Returns:
        Overrides of every trial, and setting -> distribution of its values.

    Raises:
        UserError: values that cannot be searched, such as a logarithmic interval from 0.

    Examples:
        >>> search_space(["seed=7", "optimizer.lr=tag(log, interval(1e-4, 1e-2))"])
        (['seed=7'], {'optimizer.lr': FloatDistribution(high=0.01, log=True, low=0.0001, step=None)})
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    fixed, space = list[str](), dict[str, BaseDistribution]()
    for override in {override.key_or_group: override for override in parsed}.values():
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
            continue
        try:
            space[override.get_key_element()] = _distribution(override)
        except ValueError as error:
            raise UserError(f"{override.input_line} cannot be searched ({one_line(error)})") from error
    return fixed, space


def _distribution(override: Override) -> BaseDistribution:
    """An interval of numbers, or exactly the values of Hydra's grid."""
    sweep: Any = override.value()
    if override.is_interval_sweep():
        kind: Callable[..., BaseDistribution] = FloatDistribution
        if {type(sweep.start), type(sweep.end)} == {int}:
            kind = IntDistribution
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)
    if not override.is_range_sweep():
        return CategoricalDistribution([*override.sweep_string_iterator()])
    values: list[Any] = sorted(sweep.range())
    if not values:
        raise ValueError("no values")
    kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
    return kind(values[0], values[-1], step=abs(sweep.step))


def load_study(directory: Path, direction: Any = None, sampler: BaseSampler | None = None) -> optuna.Study:
    """The study in a sweep's directory, created if need be; a record that a killed process wrote half is dropped.

    Raises:
        UserError: its journal is damaged.
    """
    path = directory / JOURNAL
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    try:
        if content and not whole:
            raise ValueError("no line of it is whole")
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
        path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)  # Optuna's own, left by a killed process
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(
            study_name="search", storage=storage, direction=direction, sampler=sampler, load_if_exists=True
        )
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        raise UserError(
            f"{path} cannot be used ({one_line(error)}); move it away, and the same command begins the search anew, or "
            "choose another hydra.sweep.dir"
        ) from error


def score_of(directory: Path, name: str) -> float | None:
    """A number of a run's summary.json; None if the run is not done, or the number is not finite.

    Raises:
        UserError: the run is done and has no such number.
    """
    if not is_done(directory):
        return None
    summary = read_mapping(directory / SUMMARY) or {}
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    if name not in numbers and summary.get(name, 0) is not None:
        raise UserError(
            f"hydra.sweeper.score={name} is no number of {directory / SUMMARY}; it has {', '.join(numbers)}"
        )
    return float(numbers[name]) if math.isfinite(numbers.get(name, math.nan)) else None
