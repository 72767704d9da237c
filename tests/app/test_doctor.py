import importlib.metadata
import json
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symmetry_robustness.app import doctor, doctor_checks
from symmetry_robustness.app.doctor_checks import Finding
from tests import fork_server


def found(check: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in check}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script in front of everything else in PATH."""

    def put(name: str, text: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")

    return put


def test_a_machine_that_runs_these_tests_has_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--root", str(tmp_path), "--output", str(tmp_path / "not" / "there")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"(ok|warning) +[^:]+: .", line) for line in lines)
    topics = {line[9:].partition(":")[0] for line in lines}
    assert topics >= {"Python", "packages", "processor", "GPU", "cifar10", "output", "free disk", "kernel cache"}
    assert topics >= {"one batch", "one attack step", "W&B"}
    assert not [path for path in tmp_path.iterdir() if path.name != "bin"]  # nothing is left behind


def test_a_problem_is_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert doctor.main(["--root", str(tmp_path), "--output", str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")]
    assert "data_batch_1.bin is missing" in line
    assert f"symrob data cifar10 --root {tmp_path}" in line


def test_data_that_are_complete_but_not_known_to_be_official(tmp_path: Path) -> None:
    directory = tmp_path / "CIFAR-10-C"
    directory.mkdir()
    for name in doctor_checks.ARCHIVES["cifar10c"].files:
        (directory / name).touch()
    assert found(doctor_checks.data(tmp_path))["cifar10c"].status == "warning"
    (directory / "checksums.json").write_text(json.dumps({"sha256": {}}))
    assert found(doctor_checks.data(tmp_path))["cifar10c"].status == "ok"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = doctor_checks.output(tmp_path / "file" / "runs")
    assert (finding.status, "output=" in finding.remedy) == ("problem", True)


def test_locks_that_lock_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.status for finding in doctor_checks.output(tmp_path)} == {"ok"}
    monkeypatch.setattr("fcntl.flock", lambda *_: None)  # as on a network file system without them
    problems = [finding for finding in doctor_checks.output(tmp_path) if finding.status == "problem"]
    assert ["locks" in finding.found for finding in problems] == [True]


def test_slurm_is_said_to_be_there_with_its_partitions(
    command: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel"):
        command(name, "true")
    command("sinfo", "echo 'debug* up, 2 nodes, infinite'")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    findings = found(doctor_checks.slurm())
    assert findings["partitions"] == Finding("partitions", "ok", "debug* up, 2 nodes, infinite")
    assert "123" in findings["Slurm job"].found


@pytest.mark.parametrize(
    ("script", "said"), [("sleep 60", "does not answer"), ("echo some; echo 'no config' >&2; exit 1", "no config")]
)
def test_a_silent_or_broken_sinfo_is_a_warning(
    script: str, said: str, command: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_checks, "_SINFO_S", doctor_checks._SINFO_S / 3)
    command("sinfo", script)
    start = time.monotonic()
    finding = found(doctor_checks.slurm())["partitions"]
    assert (finding.status, said in finding.found) == ("warning", True)
    assert time.monotonic() - start < 10 / 3


def test_torchvision_is_a_warning_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torchvision" not in found(doctor_checks.versions())
    folder = tmp_path / "torchvision-0.99.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99\n")
    monkeypatch.syspath_prepend(tmp_path)
    finding = found(doctor_checks.versions())["torchvision"]
    assert (finding.status, finding.found) == ("warning", "0.99")
    assert "pip uninstall torchvision" in finding.remedy


def test_a_check_that_breaks_off_is_a_problem_and_hides_no_other() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("first", "ok", "fine")
        raise importlib.metadata.PackageNotFoundError("nonsense")

    assert [finding.status for finding in doctor.examine("second", check)] == ["ok", "problem"]


def test_a_network_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WANDB_S", -1.9)

    def check() -> Iterator[Finding]:
        time.sleep(3)
        yield Finding("W&B", "ok", "online")

    (finding,) = doctor.in_background(check)()
    assert (finding.status, "does not answer" in finding.found) == ("warning", True)


def test_wandb_that_accepts_and_never_answers_makes_runs_offline(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        clean = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
        script = "from symmetry_robustness.app import doctor_checks as e; e.WANDB_S = 1.0; print(*e.wandb())"
        done = fork_server.run(
            [sys.executable, "-c", script],
            env=clean | {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": url, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert "runs would be offline" in done.stdout
    assert "timed out" in done.stdout
