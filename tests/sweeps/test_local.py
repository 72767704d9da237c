"""How the cores and GPUs of a machine are divided into slots."""

import os
import subprocess
from pathlib import Path

import pytest

from symmetry_robustness.errors import UserError
from symmetry_robustness.sweeps import local
from symmetry_robustness.sweeps.local import DeviceSlot, LocalExecutor, device_slots
from tests.fork_server import Popen


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("count", [2, 3, 5, 8, 11])
def test_every_core_and_gpu_is_given_away_and_none_idles(count: int) -> None:
    slots = device_slots(count, count)
    assert len(slots) == count
    for given, owned in ((s.cores for s in slots), range(8)), ((s.gpus for s in slots), ("4", "5", "6")):
        parts = list(given)
        assert all(parts)
        assert {thing for part in parts for thing in part} == set(owned)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        if count <= len(owned):
            assert sum(sizes) == len(owned)  # nothing is given twice


@pytest.mark.usefixtures("machine")
def test_a_job_alone_gets_the_machine_as_it_is() -> None:
    assert device_slots(1, 5) == device_slots(4, 1) == [DeviceSlot()]
    assert DeviceSlot().environment() == {}


@pytest.mark.usefixtures("machine")
def test_left_to_itself_there_is_a_job_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(device_slots(-1, 100)) == 3
    monkeypatch.setattr(local, "_gpus", list)
    assert len(device_slots(-1, 100)) == 2


@pytest.mark.usefixtures("machine")
def test_threads_follow_the_cores_unless_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = DeviceSlot((0, 1, 2), ("5",))
    assert slot.environment() == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "5"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert slot.environment() == {"CUDA_VISIBLE_DEVICES": "5"}


def test_a_failure_that_stops_the_sweep_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Popen)
    LocalExecutor().run([tmp_path / "empty", tmp_path / "second", tmp_path / "third"], {}, "stop")
    told = capfd.readouterr()
    assert told.out == "stopped by on_error=stop: empty did not end well; not run: 2\n"
    assert "second" not in told.err


@pytest.mark.parametrize("n_jobs", [0, -2, 1.5, "two"])
def test_a_number_of_jobs_that_cannot_be(n_jobs: int) -> None:
    with pytest.raises(UserError, match="n_jobs must be a positive number or -1"):
        LocalExecutor(n_jobs)
