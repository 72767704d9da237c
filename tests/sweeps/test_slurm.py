from pathlib import Path
from typing import Any

import pytest

from symmetry_robustness.app.config import load_config
from symmetry_robustness.errors import UserError
from symmetry_robustness.sweeps.resources import Resources, requested_resources
from symmetry_robustness.sweeps.slurm import SlurmExecutor, sbatch_message, split_into_arrays


@pytest.mark.parametrize(
    ("overrides", "settings", "expected"),
    [
        (["trainer=cpu"], {}, Resources(1, 1, 0)),
        (["trainer=ddp_cpu", "trainer.num_nodes=2"], {}, Resources(2, 2, 0)),
        (["trainer=slurm", "trainer.devices=4", "trainer.num_nodes=2"], {}, Resources(2, 4, 4)),
        (["trainer=slurm", "trainer.devices=[0,3]"], {}, Resources(1, 2, 2)),
        (["trainer=slurm", 'trainer.devices="0,2,3"'], {}, Resources(1, 3, 3)),
        (["trainer=ddp"], {"gpus_per_node": 8}, Resources(1, 8, 8)),
        (["trainer=cpu", "trainer.accelerator=auto"], {"gpus_per_node": 1}, Resources(1, 1, 1)),
        (["trainer=ddp_cpu"], {"gpus_per_node": 0}, Resources(1, 2, 0)),
    ],
)
def test_the_trainer_decides(overrides: list[str], settings: dict[str, int], expected: Resources) -> None:
    trainer: Any = load_config("train", overrides).trainer
    assert requested_resources(trainer, "job", settings.get("gpus_per_node")) == expected


@pytest.mark.parametrize(
    ("overrides", "settings", "named"),
    [
        (
            ["trainer=slurm", "trainer.devices=2"],
            {"gpus_per_node": 4},
            "gpus_per_node=4, but trainer.devices=2 in job",
        ),
        (["trainer=slurm"], {"gpus_per_node": 0}, "executor.gpus_per_node=0, but trainer.devices=1"),
        (["trainer=ddp"], {}, "trainer.devices=-1 in job does not say how many GPUs"),
        (["trainer=cpu"], {"gpus_per_node": 1}, "trainer.accelerator=cpu in job uses none"),
    ],
)
def test_settings_that_the_trainer_does_not_wait_for_are_refused(
    overrides: list[str], settings: dict[str, int], named: str
) -> None:
    trainer: Any = load_config("train", overrides).trainer
    with pytest.raises(UserError, match=named):
        requested_resources(trainer, "job", settings.get("gpus_per_node"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"timeout_min": 3}, "set timeout_min=4 or more"),
        ({"timeout_min": 0}, "timeout_min must be positive, got 0"),
        ({"gpus_per_node": 0}, "gpus_per_node must be positive, got 0"),
        ({"mem_gb": -1.0}, "mem_gb must be positive, got -1.0"),
        ({"poll_s": 0}, "poll_s must be positive"),
    ],
)
def test_numbers_of_the_executor_that_cannot_be(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        SlurmExecutor(**settings)


def test_the_shortest_time_limits_that_leave_time_to_save() -> None:
    SlurmExecutor(timeout_min=4)
    SlurmExecutor(timeout_min=2, signal_delay_s=30)


def test_an_array_holds_jobs_of_the_same_needs_and_no_more_than_the_cluster_allows() -> None:
    small, large = Resources(1, 1, 0), Resources(2, 2, 2)
    needs = {Path(f"{index}"): large if index % 2 else small for index in range(9)}
    arrays = [*split_into_arrays(needs, needs, largest=3)]
    assert [(need, len(jobs)) for need, jobs in arrays] == [(small, 3), (small, 2), (large, 3), (large, 1)]
    assert {job for _, jobs in arrays for job in jobs} == needs.keys()
    assert all(needs[job] == need for need, jobs in arrays for job in jobs)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "sbatch: unrecognized option '--foo=1'\nTry \"sbatch --help\" for more information",
            "unrecognized option '--foo=1'",
        ),
        (
            "Invalid time specification (pos=0): lots\nsbatch: error: Invalid --begin specification",
            "Invalid time specification (pos=0): lots; Invalid --begin specification",
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not available\n",
            "Memory specification can not be satisfied; "
            "Batch job submission failed: Requested node configuration is not available",
        ),
        ("", "without a message"),
    ],
)
def test_of_what_sbatch_says_the_cause_is_kept(output: str, said: str) -> None:
    assert sbatch_message(output) == said


def test_who_does_not_wait_cannot_stop_what_waits() -> None:
    with pytest.raises(UserError, match=r"on_error=stop .* --detach"):
        SlurmExecutor(detach=True).check({}, "stop")


def test_without_slurm_the_launcher_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no sbatch on this machine.*hydra/launcher=local"):
        SlurmExecutor().check({}, "continue")
