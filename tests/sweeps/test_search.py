"""Searches with Optuna's real sampler and storage; their jobs end at once with a score that is known in closed form."""

import fcntl
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("optuna")

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hydra_plugins.symrob_sweeps import SearchSweeper
from symmetry_robustness.app import cli
from symmetry_robustness.errors import UserError
from symmetry_robustness.sweeps.search import JOURNAL, load_study, score_of, search_space
from tests.fork_server import run

# An executor whose jobs score -(log10(lr) + 2)^2, fail above 0.05 and diverge below 0.0005; it may die before a job.
EXECUTOR = """
import json, math, os
from dataclasses import dataclass
from symmetry_robustness.sweeps.executor import Executor
from symmetry_robustness.runs.directory import read_config

@dataclass(frozen=True)
class Instant(Executor):
    n_jobs: int = 1

    def run(self, jobs, environment, on_error):
        for job in jobs:
            started = job.parent / "started.txt"
            with started.open("a") as file:
                print(job.name, file=file)
            if len(started.read_text().split()) == int(os.environ["DIES_BEFORE"]):
                os._exit(9)
            lr = read_config(job).optimizer.lr
            score = math.nan if lr < 0.0005 else -((math.log10(lr) + 2) ** 2)
            summary = {"status": "done", "score": score} if lr <= 0.05 else {"status": "failed", "error": "diverged"}
            (job / "summary.json").write_text(json.dumps(summary))
"""
SEARCH = [
    "-m",
    "hydra/sweeper=search",
    "hydra.sweeper.score=score",
    "hydra.launcher.executor._target_=instant.Instant",
]


RATES = "tag(log, interval(1e-4, 1e-1))"


@dataclass(frozen=True)
class Ended:
    status: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module", autouse=True)
def _instant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("module")
    (directory / "instant.py").write_text(EXECUTOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        patch.setattr(sys, "argv", sys.argv)  # the command sets it
        patch.setenv("PYTHONPATH", os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("DIES_BEFORE", "0")
        yield


def command(directory: Path, *words: str, rates: str = RATES) -> list[str]:
    return ["train", *SEARCH, f"optimizer.lr={rates}", *words, f"hydra.sweep.dir='{directory}'"]


def search(directory: Path, *words: str, rates: str = RATES) -> Ended:
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        status = cli.main(command(directory, *words, rates=rates))
    return Ended(status, output.getvalue(), errors.getvalue())


def trials(directory: Path) -> list[optuna.trial.FrozenTrial]:
    return load_study(directory).get_trials()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("search") / "sweep"
    done = search(directory, "hydra.sweeper.n_trials=12")
    assert done.status == 0, done.stdout + done.stderr
    assert "best of 12 trials: score = " in done.stdout
    return directory


def test_an_experiment_may_choose_the_search(tmp_path: Path) -> None:
    words = ["experiment=search_robust", "hydra.sweeper.score=score", "hydra.sweeper.n_trials=2"]
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        status = cli.main(["train", *words, SEARCH[-1], f"hydra.sweep.dir={tmp_path / 'sweep'}"])
    assert status == 0, errors.getvalue()
    assert "best of 2 trials: score = " in output.getvalue()


def test_a_failed_job_and_a_score_that_is_no_number_are_failed_trials(found: Path) -> None:
    made = trials(found)
    assert len(made) == 12
    for trial in made:
        lr = trial.params["optimizer.lr"]
        assert trial.state is (TrialState.COMPLETE if 0.0005 <= lr <= 0.05 else TrialState.FAIL)
    assert {trial.state for trial in made} == {TrialState.COMPLETE, TrialState.FAIL}


def test_started_again_it_goes_on_where_it_was(found: Path) -> None:
    before = [trial.params for trial in trials(found)]
    done = search(found, "hydra.sweeper.n_trials=14")
    assert (done.status, "12 trials done before" in done.stdout) == (0, True), done.stdout + done.stderr
    after = [trial.params for trial in trials(found)]
    assert (after[:12], len(after)) == (before, 14)
    assert len({params["optimizer.lr"] for params in after}) == 14


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trainer.max_epochs=7"], "trainer.max_epochs=7"),
        (["hydra.sweeper.direction=minimize"], "minimize"),
        (["resume=auto"], "resume=auto"),
        (["--detach"], "--detach"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials"),
    ],
)
def test_what_does_not_belong_to_the_search_is_refused(words: list[str], named: str, found: Path) -> None:
    number = len(trials(found))
    done = search(found, "hydra.sweeper.n_trials=20", *words)
    (line,) = done.stderr.splitlines()
    assert (done.status, named in line) == (2, True), line
    assert len(trials(found)) == number


def test_settings_that_change_no_result_may_change(found: Path) -> None:
    number = len(trials(found))
    done = search(found, f"hydra.sweeper.n_trials={number}", "logger=wandb", "tags=[x]")
    assert done.status == 0, done.stderr


def test_a_second_process_is_refused(found: Path) -> None:
    with (found / ".search.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = search(found, "hydra.sweeper.n_trials=20")
    assert (done.status, "another process is searching" in done.stderr) == (2, True)


@pytest.mark.parametrize("last", [1, 3])
def test_what_a_killed_process_has_left_is_tried_again(last: int, tmp_path: Path) -> None:
    directory = tmp_path / "sweep"
    command_line = [
        sys.executable,
        "-m",
        "symmetry_robustness.app.cli",
        *command(directory, "hydra.sweeper.n_trials=4"),
    ]
    environment = os.environ | {"DIES_BEFORE": str(last)}
    killed = run(command_line, env=environment, capture_output=True, check=False, timeout=120)
    assert killed.returncode == 9
    done = search(directory, "hydra.sweeper.n_trials=4")
    assert (done.status, "best of 4 trials: " in done.stdout) == (0, True), done.stdout + done.stderr
    assert ("2 trials done before" in done.stdout) == (last == 3)
    started = (directory / "started.txt").read_text().split()
    assert (len(started), started[last - 1]) == (5, started[last])
    assert len({path.name for path in (directory / "jobs").iterdir()}) == 4
    again = search(directory, "hydra.sweeper.n_trials=4")
    assert (again.status, "4 trials done before" in again.stdout) == (0, True), again.stdout + again.stderr


def test_a_trial_that_no_job_has_seen_is_neither_counted_nor_run(tmp_path: Path) -> None:
    search(tmp_path, "hydra.sweeper.n_trials=2")
    load_study(tmp_path).ask()  # the process is killed before the trial has its parameters
    done = search(tmp_path, "hydra.sweeper.n_trials=3")
    assert (done.status, "2 trials done before" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "best of 3 trials" in done.stdout
    assert len((tmp_path / "started.txt").read_text().split()) == 3


def test_the_study_is_kept_in_the_sweep_whatever_that_is_called(tmp_path: Path) -> None:
    directory = tmp_path / "is 50% enough? {yes} #1"
    done = search(directory, "hydra.sweeper.n_trials=1")
    assert done.status == 0, done.stdout + done.stderr
    assert (directory / JOURNAL).stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]


@pytest.mark.parametrize("damage", ["a line of another program", "another program's"])
def test_a_damaged_study_is_one_line(damage: str, found: Path, tmp_path: Path) -> None:
    lines = (found / JOURNAL).read_bytes().splitlines(keepends=True)
    content = [*lines[:5], b"hello\n", *lines[5:]] if damage == "a line of another program" else [b"hello" * 1000]
    (tmp_path / JOURNAL).write_bytes(b"".join(content))
    done = search(tmp_path, "hydra.sweeper.n_trials=12")
    (line,) = done.stderr.splitlines()
    assert (done.status, f"{tmp_path / JOURNAL} cannot be used" in line, "move it away" in line) == (2, True, True)
    assert (tmp_path / JOURNAL).read_bytes().startswith(b"".join(content))


@pytest.mark.parametrize("lost", [1, 40, 400])
def test_a_journal_without_its_end_keeps_every_trial_that_is_whole(lost: int, found: Path, tmp_path: Path) -> None:
    whole = (found / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole[:-lost])
    before = {trial.number: trial.params for trial in trials(found)}
    kept = {trial.number: trial.params for trial in trials(tmp_path) if trial.state.is_finished()}
    assert kept.items() <= before.items()
    assert len(kept) >= len(before) - 2
    number = len(before)
    done = search(tmp_path, f"hydra.sweeper.n_trials={number}")
    assert (done.status, f"best of {number} trials" in done.stdout) == (0, True), done.stdout + done.stderr
    assert {trial.number: trial.params for trial in trials(tmp_path) if trial.number in kept} == kept


@pytest.mark.parametrize(
    "sampler", ["null", "{_target_:optuna.samplers.Guess}", "{_target_:optuna.samplers.TPESampler,sed:1}"]
)
def test_a_sampler_that_is_none_is_one_line(sampler: str, tmp_path: Path) -> None:
    done = search(tmp_path / "sweep", "~hydra.sweeper.sampler", f"+hydra.sweeper.sampler={sampler}")
    (line,) = done.stderr.splitlines()
    assert (done.status, "hydra.sweeper.sampler" in line) == (2, True)


def test_several_are_chosen_at_once(tmp_path: Path) -> None:
    done = search(tmp_path / "sweep", "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=3")
    assert [line.split(": ")[1] for line in done.stdout.splitlines() if line.startswith("sweep ")] == [
        "3 jobs",
        "2 jobs",
    ]


def test_a_search_without_a_result_is_one_line(tmp_path: Path) -> None:
    done = search(tmp_path / "sweep", "hydra.sweeper.n_trials=2", rates="choice(0.09, 0.1)")
    (line,) = done.stderr.splitlines()
    assert (done.status, "none of 2 trials has a result" in line) == (2, True)


def test_a_score_that_no_summary_has_ends_the_search(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"status": "done", "clean_accuracy": 0.5, "clever": None}))
    assert score_of(tmp_path, "clean_accuracy") == 0.5
    assert score_of(tmp_path, "clever") is None
    with pytest.raises(UserError, match=r"hydra\.sweeper\.score=robust.*it has clean_accuracy"):
        score_of(tmp_path, "robust")
    assert score_of(tmp_path / "absent", "robust") is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("interval(1, 8)", FloatDistribution(1, 8)),
        ("interval(0.5, 8)", FloatDistribution(0.5, 8)),
        ("tag(log, int(interval(1, 100)))", IntDistribution(1, 100, log=True)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1.0, 8.0))", IntDistribution(1, 8)),
        ("a,b", CategoricalDistribution(["a", "b"])),
        ("choice(1, true, 'a b', [1,2])", CategoricalDistribution(["1", "True", "a\\ b", "[1,2]"])),
        ("range(1, 8, 3)", IntDistribution(1, 7, step=3)),
        ("range(3)", IntDistribution(0, 2)),
        ("range(5, 0, -2)", IntDistribution(1, 5, step=2)),
        ("range(0, 1, 0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("shuffle(range(3))", IntDistribution(0, 2)),
    ],
)
def test_the_search_space_is_typed_as_hydra_s_sweeps(values: str, expected: BaseDistribution) -> None:
    fixed, space = search_space(["a=interval(0, 1)", "seed=7", f"+a={values}", "~b"])
    assert (fixed, space) == (["seed=7", "~b"], {"+a": expected})


@pytest.mark.parametrize("values", ["tag(log, interval(0, 1))", "interval(2, 1)", "range(0)"])
def test_values_that_cannot_be_searched_are_named(values: str) -> None:
    with pytest.raises(UserError, match=r"^a=.* cannot be searched \(") as caught:
        search_space([f"a={values}"])
    assert "\n" not in str(caught.value)


def test_without_optuna_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "symmetry_robustness.sweeps.search", None)
    with pytest.raises(UserError, match=r"pip install 'symmetry-robustness\[search\]'"):
        SearchSweeper()
