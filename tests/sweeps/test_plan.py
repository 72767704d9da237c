"""Identity of jobs and sweeps: which two are the same."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from symmetry_robustness import load_config
from symmetry_robustness.errors import UserError
from symmetry_robustness.files import locked
from symmetry_robustness.runs.directory import config_hash, create_run, find_run, first_difference, read_config
from symmetry_robustness.runs.json_files import write_json
from symmetry_robustness.sweeps.plan import PlannedJob, find_sweep, record_sweep
from symmetry_robustness.sweeps.status import sweep_states
from tests.fork_server import run

WORDS = ("-m", "seed=0,1")


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return load_config("train", ["model=standard_4layer"])


def changed(config: DictConfig, **settings: object) -> DictConfig:
    return DictConfig({**config, **settings})


def loaded(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def test_the_key_is_that_of_what_is_computed(config: DictConfig) -> None:
    key = config_hash(config)
    assert key == config_hash(changed(config, output="/elsewhere", tags=["a"], group="b", resume="auto"))
    assert key == config_hash(DictConfig(dict(reversed(list(config.items())))))
    assert key != config_hash(changed(config, seed=1))
    assert key != config_hash(load_config("train", ["model=standard_4layer", "optimizer.lr=0.5"]))


def test_the_key_survives_the_run_directory(config: DictConfig, tmp_path: Path) -> None:
    job = PlannedJob(tmp_path, config, ("seed=0",), WORDS)
    job.write()
    assert config_hash(read_config(job.directory)) == job.key == loaded(job.directory / "provenance.json")["key"]
    assert job.directory.name.endswith(job.key)


def test_a_job_is_planned_once(config: DictConfig, tmp_path: Path) -> None:
    for _ in range(2):
        PlannedJob(tmp_path, config, ("seed=0",), WORDS).write()
        identity = (tmp_path / f"standard_4layer_seed-0_{config_hash(config)}" / "provenance.json").read_text()
        (_,) = (tmp_path / "jobs").iterdir()
    PlannedJob(tmp_path, changed(config, seed=1), ("seed=1",), WORDS).write()
    assert (tmp_path / f"standard_4layer_seed-0_{config_hash(config)}" / "provenance.json").read_text() == identity
    rows = [json.loads(path.read_text()) for path in (tmp_path / "jobs").iterdir()]
    assert sorted(row["overrides"] for row in rows) == [["seed=0"], ["seed=1"]]
    assert all((tmp_path / row["directory"] / "config.yaml").exists() for row in rows)


def test_a_job_whose_directory_is_gone_can_be_planned_again(config: DictConfig, tmp_path: Path) -> None:
    job = PlannedJob(tmp_path, config, ("seed=0",), WORDS)
    job.write()
    row = (tmp_path / "jobs" / f"{job.key}.json").read_text()
    shutil.rmtree(job.directory)
    job.write()
    assert read_config(job.directory) == config
    assert (tmp_path / "jobs" / f"{job.key}.json").read_text() == row


def test_the_manifest_names_the_last_command_about_a_job_that_is_not_done(config: DictConfig, tmp_path: Path) -> None:
    job = PlannedJob(tmp_path, config, ("seed=0",), ("-m", "seed=0"))
    longer = PlannedJob(tmp_path, config, (), ("-m", "seed=0,1"))
    row = tmp_path / "jobs" / f"{job.key}.json"
    job.write()
    longer.write()
    assert loaded(row)["argv"] == ["-m", "seed=0,1"]
    write_json(job.directory / "summary.json", {"status": "done"})
    job.write()
    assert loaded(row)["argv"] == ["-m", "seed=0,1"]


def test_settings_that_decide_no_result_are_those_of_the_last_command(config: DictConfig, tmp_path: Path) -> None:
    job = PlannedJob(tmp_path, config, ("seed=0",), WORDS)
    tracked = load_config("train", ["model=standard_4layer", "logger=wandb", "tags=[a]", "group=b"])
    again = PlannedJob(tmp_path, tracked, ("seed=0",), (*WORDS, "logger=wandb"))
    assert again.directory == job.directory
    job.write()
    write_json(job.directory / "summary.json", {"status": "interrupted"})
    with locked(job.directory / ".lock"):
        again.write()
    assert read_config(job.directory) == config  # which a job that runs has read already
    again.write()
    assert read_config(job.directory) == tracked
    write_json(job.directory / "summary.json", {"status": "done"})
    job.write()
    assert read_config(job.directory) == tracked


def test_what_is_as_the_command_says_is_not_written_again(config: DictConfig, tmp_path: Path) -> None:
    for _ in range(2):
        PlannedJob(tmp_path, config, ("seed=0",), WORDS).write()
        written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    PlannedJob(tmp_path, config, ("seed=0",), WORDS).write()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == written


def test_a_damaged_row_is_written_anew(config: DictConfig, tmp_path: Path) -> None:
    job = PlannedJob(tmp_path, config, ("seed=0",), WORDS)
    job.write()
    for summary in ({"status": "failed"}, {"status": "done"}):
        write_json(job.directory / "summary.json", summary)
        (tmp_path / "jobs" / f"{job.key}.json").write_text("")
        job.write()
        (state,) = sweep_states(tmp_path)
        assert (state.key, state.overrides) == (job.key, ("seed=0",))


PLAN = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from symmetry_robustness.sweeps.plan import PlannedJob
config = OmegaConf.load(sys.argv[1])
for seed in range(20):
    config.seed = seed
    PlannedJob(Path(sys.argv[2]), config.copy(), (f"seed={seed}",), ("-m",)).write()
"""


def test_many_processes_plan_the_same_jobs_at_once(config: DictConfig, tmp_path: Path) -> None:
    create_run(config, tmp_path / "template", [])
    command = [sys.executable, "-c", PLAN, str(tmp_path / "template" / "config.yaml"), str(tmp_path / "sweep")]
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(lambda _: run(command, capture_output=True, text=True), range(4)):
            assert done.returncode == 0, done.stderr
    rows = [loaded(path) for path in (tmp_path / "sweep" / "jobs").iterdir()]
    assert sorted(read_config(tmp_path / "sweep" / row["directory"]).seed for row in rows) == [*range(20)]
    assert len([path for path in (tmp_path / "sweep").iterdir() if path.name != "jobs"]) == 20  # and nothing left over


def test_a_sweep_is_found_by_its_words(tmp_path: Path) -> None:
    for name, words in (("a", WORDS), ("b", WORDS), ("c", ("-m", "seed=0,1,2"))):
        (tmp_path / name).mkdir()
        record_sweep(tmp_path / name, words)
    record_sweep(tmp_path / "a", WORDS)  # going on does not make it the newest
    assert find_sweep(tmp_path, WORDS) == tmp_path / "b"
    assert find_sweep(tmp_path, ("-m", "seed=7")) is None


def test_a_run_is_found_by_what_it_computes(config: DictConfig, tmp_path: Path) -> None:
    assert find_run(tmp_path / "new", config) is None
    create_run(config, tmp_path / "old", [])
    create_run(changed(config, seed=1), tmp_path / "other", [])
    assert find_run(tmp_path / "new", config) == tmp_path / "old"
    assert find_run(tmp_path / "other", changed(config, seed=1)) == tmp_path / "other"
    with pytest.raises(UserError, match="seed: 1 and 0"):
        find_run(tmp_path / "other", config)


def test_the_first_difference_names_setting_and_values(config: DictConfig) -> None:
    assert first_difference(config, changed(config, output="elsewhere")) is None
    other = load_config("train", ["model=standard_4layer", "optimizer.lr=0.5"])
    assert first_difference(config, other) == "optimizer.lr: 0.001 and 0.5"
    without = load_config("train", ["model=standard_4layer", "robustness=none"])
    assert "robustness" in str(first_difference(config, without))
