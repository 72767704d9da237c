"""W&B in processes of their own, because it keeps its state per process; real servers on this machine, real files."""

import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from symmetry_robustness.errors import UserError
from symmetry_robustness.training.wandb_logger import unreachable, wandb_logger, why_offline
from tests import fork_server
from tests.waiting import wait_until

from .wandb_server import WandbServer, history, offline_runs

# Two epochs; between them the test may do something to the server or the disk.
SCRIPT = """
import functools, os, sys
from pathlib import Path
from symmetry_robustness.training import wandb_logger as tracking
tracking.why_offline = functools.partial(tracking.why_offline, float(os.environ.get("PATIENCE", "10")))
from symmetry_robustness.training.console import set_up_logging
directory, mode, first, status = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
set_up_logging(directory, leader=True)
logger = tracking.wandb_logger(
    directory=directory, project="p", entity=None, mode=mode, run_id="abcd1234", name="n", group="g",
    job_type="standard", tags=["t"], config={"model": {"width": 3}},
)
logger.log_metrics({"train/loss": 1 / first}, step=7 * first)
print("half", flush=True)
sys.stdin.readline()
logger.log_metrics({"train/loss": 1 / (first + 1)}, step=7 * (first + 1))
logger.log_image("picture", [__import__("numpy").zeros((4, 4, 3), dtype="uint8")], step=7 * (first + 1))
print("trained", flush=True)
tracking.finish(status)
"""
KEY = {"WANDB_API_KEY": "0" * 40}
REFUSING = KEY | {"WANDB_BASE_URL": "http://127.0.0.1:9"}  # a port nothing listens on


class Job:
    """The script above, started; `go_on` lets it past its middle and waits for its end."""

    def __init__(self, directory: Path, mode: str, first: int = 1, status: int = 0, **environment: str) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        words = [sys.executable, "-c", SCRIPT, str(directory), mode, str(first), str(status)]
        self._process = fork_server.Popen(
            words,
            env=clean | {"HOME": str(directory), "WANDB_FINISH_TIMEOUT": "3"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout
        self.output = ""
        while not self.output.endswith("half\n"):
            line = self._process.stdout.readline()
            assert line, self.output
            self.output += line

    def service(self) -> int:
        """The process id of W&B's service."""
        words = ["pgrep", "-P", str(self._process.pid), "wandb-core"]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    def go_on(self) -> str:
        start = time.monotonic()
        self.output += self._process.communicate("\n", timeout=60)[0]
        self.seconds = time.monotonic() - start
        assert self._process.returncode == 0, self.output
        assert "trained" in self.output
        assert "Traceback" not in self.output
        return self.output


@pytest.fixture
def server() -> Iterator[WandbServer]:
    server = WandbServer()
    yield server
    server.close()


def rows(directory: Path) -> list[dict[str, object]]:
    """Losses in the only offline run below a directory."""
    ((run, content),) = offline_runs(directory).items()
    assert run == "abcd1234"
    return [row for row in history(content) if "train/loss" in row]


@pytest.mark.parametrize(
    ("mode", "environment", "reason"),
    [
        ("offline", {}, ""),
        ("online", {}, "no API key"),
        ("online", REFUSING, "http://127.0.0.1:9 does not answer"),
        ("online", {"WANDB_MODE": "offline"}, ""),
    ],
    ids=["offline", "no key", "no server", "told by the environment"],
)
def test_a_run_that_cannot_be_online_is_kept_in_one_offline_file(
    mode: str, environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    output = Job(tmp_path, mode, **environment).go_on()
    assert reason in output
    assert f"upload with: wandb sync {tmp_path / 'wandb'}\n" in output
    assert rows(tmp_path) == [
        {"train/loss": 1.0, "trainer/global_step": 7},
        {"train/loss": 0.5, "trainer/global_step": 14},
    ]


def test_the_server_gets_one_run_with_everything(server: WandbServer, tmp_path: Path) -> None:
    output = Job(tmp_path, "online", status=3, **KEY, WANDB_BASE_URL=server.url).go_on()
    assert "W&B" not in output
    ((identity, run),) = server.runs.items()
    assert identity == "abcd1234"
    assert {run.settings[key] for key in ("groupName", "jobType", "displayName")} == {"g", "standard", "n"}
    assert run.settings["tags"] == ["t"]
    assert [row["train/loss"] for row in run.history.values() if "train/loss" in row] == [1.0, 0.5]
    assert (run.complete, run.exit_code) == (True, 3)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["hangs", "dies"])
def test_a_server_lost_in_the_middle_costs_a_line_and_a_bounded_wait(
    what: str, server: WandbServer, tmp_path: Path
) -> None:
    job = Job(tmp_path, "online", **KEY, WANDB_BASE_URL=server.url, WANDB_FINISH_TIMEOUT="1")
    (server.hanging.set if what == "hangs" else server.close)()
    output = job.go_on()
    (line,) = [line for line in output.splitlines() if "W&B" in line]
    (directory,) = (tmp_path / "wandb").glob("run-*")
    assert "incomplete" in line
    assert job.seconds < 20  # one of them is the time to upload that is granted here, instead of twenty
    # The line's command brings the run to a server that is there again.
    assert line.endswith(f"wandb sync --include-online {directory}")
    again = WandbServer()
    assert "abcd1234" in sync("--include-online", str(directory), server=again)
    (run,) = again.runs.values()
    assert [row["train/loss"] for row in run.history.values() if "train/loss" in row] == [1.0, 0.5]
    again.close()


@pytest.mark.slow
def test_a_server_that_hangs_from_the_start_is_left_alone(tmp_path: Path) -> None:
    assert inspect.signature(why_offline).parameters["patience"].default <= 10
    with socket.create_server(("127.0.0.1", 0)) as listener:  # connections are made by the kernel, nobody answers
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        output = Job(tmp_path, "online", **KEY, WANDB_BASE_URL=url, PATIENCE="1").go_on()
        assert time.monotonic() - start < 30
    assert f"{url} does not answer (timed out)" in output
    assert len(rows(tmp_path)) == 2


def test_a_server_that_does_not_take_the_key_costs_a_line(server: WandbServer, tmp_path: Path) -> None:
    server.status = 403
    output = Job(tmp_path, "online", **KEY, WANDB_BASE_URL=server.url).go_on()
    assert "W&B: offline, could not start online" in output
    assert len(rows(tmp_path)) == 2


def test_any_answer_is_one(server: WandbServer) -> None:
    assert unreachable(server.url, 5.0) is None
    assert "unknown url type" in (unreachable("nonsense", 5.0) or "")


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_training_outlives_the_service_which_takes_the_last_second_with_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    job = Job(tmp_path, "offline")
    time.sleep(1.5)
    os.kill(service := job.service(), number)
    wait_until(lambda: has_ended(service), 60)
    time.sleep(0.2)  # for the job to notice
    output = job.go_on()
    assert output.count("W&B: no longer tracked") == 1
    assert job.seconds < 20
    assert rows(tmp_path) == [{"train/loss": 1.0, "trainer/global_step": 7}]


def test_where_no_file_can_be_written_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "wandb").touch()  # holds even for root, whom permissions do not bind
    output = Job(tmp_path, "offline").go_on()
    (line,) = [line for line in output.splitlines() if "W&B" in line]
    assert "not tracked" in line


@pytest.mark.slow
def test_a_job_resumed_offline_is_one_run_and_one_command_uploads_it(server: WandbServer, tmp_path: Path) -> None:
    Job(tmp_path, "offline", first=1, status=75).go_on()
    time.sleep(1.1)  # folders are named by the second
    output = Job(tmp_path, "offline", first=3).go_on()
    assert [row["train/loss"] for row in rows(tmp_path)] == [1 / n for n in (1, 2, 3, 4)]
    command = next(line for line in output.splitlines() if "upload with" in line).partition("wandb sync ")[2]
    sync(command, server=server)
    ((identity, run),) = server.runs.items()
    assert identity == "abcd1234"
    assert [row["train/loss"] for row in run.history.values() if "train/loss" in row] == [1 / n for n in (1, 2, 3, 4)]
    assert (run.complete, run.exit_code) == (True, 0)
    assert "No runs to sync" in sync(command, server=server)


def sync(*words: str, server: WandbServer) -> str:
    """Output of `wandb sync`."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *words],
        env=os.environ | KEY | {"WANDB_BASE_URL": server.url, "WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logger\.wandb\.mode"):
        wandb_logger(
            directory=tmp_path, project="p", entity=None, mode="sometimes", run_id="x", name="n", group="g",
            job_type="j", tags=[], config={},
        )  # fmt: skip
