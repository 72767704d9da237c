"""A search: a sweep whose jobs Optuna chooses by the results of those before; started again it goes on."""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import optuna
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import DictConfig
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.files import locked
from symmetry_robustness.runs.directory import NON_RESULT_KEYS, SUMMARY, is_done
from symmetry_robustness.runs.json_files import read_json
from symmetry_robustness.sweeps.manifest import PlannedJob

STORAGE: Final = "search.db"
_STUDY: Final = "search"
# Attributes of the study: what it was started with, and numbers of trials that a killed process has left.
_SETTINGS, _ABANDONED = "settings", "abandoned"


@final
class Search(OptunaSweeperImpl):
    """Optuna's sweeper with the study kept in the sweep's directory, and jobs judged by their summary.json.

    A job that failed, or whose score is not finite, is a failed trial; the search goes on. Trials that a killed process
    has left are tried again with the same settings, so that their jobs go on from their checkpoints.

    Args:
        score: the number of summary.json to be optimised, e.g. `robust_accuracy.pgd.linf_0.01569`.
        direction: "maximize" or "minimize".
        n_trials: how many altogether, those of earlier starts included.
        n_jobs: how many are chosen at once; how many run at once is up to the launcher.
        sampler: node of an Optuna sampler.
        params: what to search, in Hydra's syntax of sweeps, e.g. `{"optimizer.lr": "tag(log, interval(1e-4, 1e-2))"}`.
    """

    def __init__(
        self, score: str, direction: str, n_trials: int, n_jobs: int, sampler: DictConfig, params: DictConfig
    ) -> None:
        if direction not in ("maximize", "minimize"):
            raise UserError(f"hydra.sweeper.direction must be maximize or minimize, got {direction!r}")
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"hydra.sweeper.{name} must be a positive number, got {value!r}")
        super().__init__(
            sampler=instantiate(sampler),
            direction=direction,
            storage=None,  # known as soon as the sweep's directory is
            study_name=_STUDY,
            n_trials=n_trials,
            n_jobs=n_jobs,
            max_failure_rate=1.0,
            search_space=None,
            custom_search_space=None,
            params=params,
        )
        self._score = score

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Put a judge between Optuna and the launcher.

        Raises:
            UserError: a launcher that does not wait for its jobs.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if (config.hydra.launcher.get("executor") or {}).get("detach"):
            raise UserError("a search has to wait for its jobs; leave out --detach")
        assert self.launcher is not None  # what it made itself
        self.launcher = JudgingLauncher(self.launcher, self._score)

    def sweep(self, arguments: list[str]) -> None:
        """Search until there are `n_trials`, and say which was the best.

        Raises:
            UserError: the directory holds another search or one that is running, or no job has a result.
        """
        if "resume=auto" in arguments:
            raise UserError("a search goes on wherever hydra.sweep.dir holds one; leave out resume=auto")
        directory = Path(self.sweep_dir)
        directory.mkdir(parents=True, exist_ok=True)
        database = (directory / STORAGE).absolute()
        self.storage = f"sqlite:///{database.as_uri()}?uri=true"  # a plain path would end at a question mark
        for name in ("optuna", "hydra_plugins.hydra_optuna_sweeper"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failed trials are told here
        with _alone(directory), _readable(database):
            study = self._study(arguments)
            if study.get_trials(deepcopy=False) and isinstance(self.sampler, BaseSampler):
                self.sampler.reseed_rng()  # a seeded sampler would propose the first trials again
            _take_up(study)
            finished = _count(study)
            if finished:
                print(f"search {directory}: {finished} trials done before", flush=True)
            self.n_trials = max(self.n_trials - finished, 0)
            try:
                super().sweep(arguments)
            except ValueError as error:
                if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                    raise
                raise UserError(
                    f"none of {_count(study)} trials has a result; see summary.json and log.txt in {directory}/*"
                ) from error
            print(f"best of {_count(study)} trials: {self._score} = {study.best_value:.4g} with", end=" ")
            print(*(f"{name}={value}" for name, value in study.best_params.items()), flush=True)

    def _study(self, arguments: Sequence[str]) -> optuna.Study:
        """The study of the directory, new or from an earlier start, so that results of different settings never mix."""
        words = [*self._parse_sweeper_params_config(), *arguments]
        names = {word: word.lstrip("+").partition("=")[0].split(".")[0] for word in words}
        settings = [
            self._score,
            str(self.direction),
            *sorted(word for word in words if names[word] not in NON_RESULT_KEYS),
        ]
        known = {found.study_name: found for found in optuna.get_all_study_summaries(str(self.storage))}
        if _STUDY in known and (before := known[_STUDY].user_attrs.get(_SETTINGS, settings)) != settings:
            differing = " ".join(word for word in [*before, *settings] if (word in before) != (word in settings))
            raise UserError(
                f"{self.sweep_dir} holds a search with other settings ({differing}); choose another hydra.sweep.dir"
            )
        study = optuna.create_study(
            study_name=_STUDY, storage=self.storage, directions=self._get_directions(), load_if_exists=True
        )
        study.set_user_attr(_SETTINGS, settings)
        return study


@final
class JudgingLauncher(Launcher):
    """Runs jobs by another launcher and returns their scores.

    Args:
        launcher: one of this project, which returns planned jobs.
        score: the number of summary.json.
    """

    def __init__(self, launcher: Launcher, score: str) -> None:
        self._launcher, self._score = launcher, score

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing: the other launcher is set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; what each returns is its score, None for a failed trial."""
        returns = self._launcher.launch(job_overrides, initial_job_idx)
        for job in returns:
            planned = job.return_value
            if not isinstance(planned, PlannedJob):
                raise UserError("a search needs a launcher of this project: hydra/launcher=local, parallel or slurm")
            job.return_value = score_of(planned.directory, self._score)
            shown = "failed" if job.return_value is None else f"{self._score} = {job.return_value:.4g}"
            print(f"trial {' '.join(planned.overrides)}: {shown}", flush=True)
        return returns


def score_of(directory: Path, name: str) -> float | None:
    """A number of a run's summary.json; None if the run is not done, or the number is not finite.

    Raises:
        UserError: the run is done and has no such number.
    """
    if not is_done(directory):
        return None
    summary: Mapping[str, Any] = read_json(directory / SUMMARY)
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    if name not in numbers and summary.get(name, 0) is not None:
        raise UserError(
            f"hydra.sweeper.score={name} is no number of {directory / SUMMARY}; it has {', '.join(numbers)}"
        )
    return float(numbers[name]) if math.isfinite(numbers.get(name, math.nan)) else None


def _take_up(study: optuna.Study) -> None:
    """Have trials tried again that a killed process has left."""
    abandoned = {*study.user_attrs.get(_ABANDONED, ())}
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.params:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.enqueue_trial(trial.params)
        abandoned.add(trial.number)
        study.set_user_attr(_ABANDONED, sorted(abandoned))
        study.tell(trial.number, state=TrialState.FAIL)


def _count(study: optuna.Study) -> int:
    """How many trials are finished, without those that were left and are tried again under another number."""
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    return finished - len(study.user_attrs.get(_ABANDONED, ()))


@contextlib.contextmanager
def _readable(database: Path) -> Iterator[None]:
    """Tell in one line what is wrong with the file that the study is kept in.

    Raises:
        UserError: it is damaged, or the machine refuses to read or write it.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        inner = error if isinstance(error, SQLAlchemyError) else error.__cause__
        raise UserError(
            f"{database} cannot be used ({one_line(getattr(inner, 'orig', None) or error)}); if it is damaged, move it "
            "away, and the same command begins the search anew, or choose another hydra.sweep.dir"
        ) from error


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep a second process from taking the trials of this one for abandoned ones.

    Raises:
        UserError: there is one.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(directory / f"{STORAGE}.lock"))
        except BlockingIOError as error:
            raise UserError(f"another process is searching in {directory}; wait for it or end it") from error
        yield
