"""`symrob status` as a person at a terminal sees it, and as a script does."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from symmetry_robustness.app.status import main
from symmetry_robustness.app.status_view import Label, sweep_view
from symmetry_robustness.errors import UserError
from symmetry_robustness.sweeps.status import JobState

NOW = 1_000_000.0


def job(state: Any, index: int = 0, **fields: Any) -> JobState:
    directory = Path(f"run-{index}")
    return JobState(f"key-{index}", directory, (f"seed={index}", "model=parallel_rotation_scale"), state, **fields)


def running(index: int = 0, **fields: Any) -> JobState:
    known = {"phase": "training", "epoch": 2, "max_epochs": 5, "step": 200, "steps": 500, "images_per_second": 1234.5}
    known |= {"remaining": 90.0 + index, "metric": ("validation/accuracy", 0.5123), "host": "node7"}
    return job("running", index, **known | {"started": NOW - 60, "updated": NOW} | fields)


def text(states: list[JobState], width: int = 100, height: int | None = None) -> str:
    console = Console(width=width, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(sweep_view(Path("outputs/sweep"), states, width, height, NOW))
    return capture.get()


def test_a_sweep_on_a_terminal_of_80_columns() -> None:
    states = [
        job("done", started=0.0, updated=100.0),
        running(1),
        job("queued", 2),
        job("failed", 3, error="loss is nan"),
    ]
    states.append(job("lost", 4, updated=NOW - 3600, error="epoch 2/5"))
    lines = text(states, 80).splitlines()
    assert lines[0].startswith("outputs/sweep ")
    assert "3:11 left, ends about" in lines[0]  # 91 s of the one that runs, then 100 of the one that waits
    assert lines[1].endswith("1 of 5 done")
    assert lines[2] == "● 1 running  ✖ 1 failed  ✖ 1 lost  ○ 1 queued  ✔ 1 done"
    assert lines[5].split() == [
        "seed=1", "model=p…rotation_scale", "2/5", "1,234", "1:31", "0.5123", "validation/accuracy"
    ]  # fmt: skip
    assert lines[7].startswith("✖ failed")
    assert lines[7].rstrip().endswith("loss is nan")
    assert lines[8].startswith("✖ lost")
    assert "silent for 1:00:00; last line:" in lines[8]


def test_a_wide_terminal_shows_the_machine() -> None:
    (line,) = [line for line in text([running(1)], 160).splitlines() if "seed=1" in line]
    assert line.rstrip().endswith("node7")


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("height", [8, 24, 60])
@pytest.mark.parametrize(("going", "bad"), [(0, 0), (1, 0), (0, 1), (1, 1), (3, 500), (500, 3), (500, 500), (15, 15)])
def test_any_sweep_fits_any_terminal(width: int, height: int, going: int, bad: int) -> None:
    states = [running(index) for index in range(going)] + [job("done")] * 3
    states += [job("failed", 1000 + index, error="Traceback " * 40) for index in range(bad)]
    lines = text(states, width, height).splitlines()
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    for kind, mark, count in (("running", "1,234", going), ("of these", "✖ failed", bad)):
        shown = sum(mark in line for line in lines[3:])
        assert shown == count or any(line.strip() == f"… and {count - shown:,} more {kind}" for line in lines)
        assert shown or not count or height == 8


def test_a_message_is_text_and_nothing_else() -> None:
    assert "[red]x[/red] [/] :boom:" in text([job("failed", error="[red]x[/red] [/] :boom:")], 120)


def test_what_a_job_does_when_it_does_not_train() -> None:
    assert "evaluating" in text([running(phase="evaluating")])
    assert "starting" in text([job("running")])


def write_sweep(sweep: Path, *, ended: bool) -> None:
    now = time.time()
    for name, status in (("a", "done"), ("b", "failed"), ("c", None if not ended else "done")):
        (sweep / name).mkdir(parents=True)
        (sweep / name / "config.yaml").write_text("{}")
        if status:
            (sweep / name / "summary.json").write_text(json.dumps({"status": status, "error": "out of memory"}))
        else:
            content = {"phase": "training", "epoch": 1, "max_epochs": 4, "updated": now, "started": now - 10}
            (sweep / name / "progress.json").write_text(json.dumps(content))


def test_a_file_gets_one_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, ended=False)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "● 1 running  ✖ 1 failed  ✔ 1 done" in out
    assert "out of memory" in out
    assert "\x1b" not in out


def test_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, ended=False)
    assert main(["--json", str(tmp_path), str(tmp_path)]) == 0
    (sweep,) = json.loads(capsys.readouterr().out)
    assert sweep["counts"] == {"done": 1, "failed": 1, "running": 1}
    assert [job["state"] for job in sweep["jobs"]] == ["done", "failed", "running"]
    assert sweep["seconds_left"] == pytest.approx(30, rel=0.01)


def test_what_is_no_sweep_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no job"):
        main([str(tmp_path)])


def test_it_starts_without_torch(tmp_path: Path) -> None:
    write_sweep(tmp_path, ended=True)
    code = "import sys; from symmetry_robustness.app.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False\n")


class Terminal:
    """`symrob status` in a terminal of 80 columns and 24 lines."""

    def __init__(self, *words: str) -> None:
        self.seen = b""
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
            os.execv(sys.executable, [sys.executable, "-m", "symmetry_robustness.app.cli", "status", *words])

    def wait_for(self, words: bytes) -> None:
        end = time.monotonic() + 30
        while words not in self.seen:
            assert select.select([self.file], [], [], max(0.0, end - time.monotonic()))[0], self.seen
            self.seen += os.read(self.file, 4096)

    def status(self) -> int:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if select.select([self.file], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.file, 4096)
                except OSError:  # the other side is closed
                    break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal_is_kept_up_to_date_until_ctrl_c(tmp_path: Path) -> None:
    write_sweep(tmp_path, ended=False)
    terminal = Terminal(str(tmp_path))
    terminal.wait_for(b"1 running")
    progress = json.loads((tmp_path / "c" / "progress.json").read_text())
    (tmp_path / "c" / "progress.json").write_text(json.dumps(progress | {"epoch": 3}))
    terminal.wait_for(b"3/4")
    os.write(terminal.file, b"\x03")
    assert terminal.status() == 0
    assert b"\x1b[?1049l" in terminal.seen  # the screen is given back,
    assert b"1 running" in terminal.seen.split(b"\x1b[?1049l")[1]  # with the last look on it
    assert b"interrupted" not in terminal.seen


def test_it_ends_by_itself_when_all_has_ended(tmp_path: Path) -> None:
    write_sweep(tmp_path, ended=False)
    terminal = Terminal(str(tmp_path))
    terminal.wait_for(b"1 running")
    (tmp_path / "c" / "summary.json").write_text('{"status": "done"}')
    assert terminal.status() == 0
    assert b"2 done" in terminal.seen


@pytest.mark.parametrize("width", range(1, 60))
def test_long_labels_are_cut_in_their_middle(width: int) -> None:
    text = "model=standard optimizer.lr=0.001 data.batch_size=64 seed=1"
    terminal = Console(width=width, file=io.StringIO())
    (line,) = terminal.render_lines(Label(text), pad=False)
    shown = "".join(part.text for part in line).rstrip("\n")
    first, cut, last = shown.partition("…")
    assert len(shown) <= width
    assert text.startswith(first)
    assert text.endswith(last)
    assert (cut == "") == (width >= len(text))
    if 10 < width < len(text):
        assert last.endswith("seed=1"[-(width // 2 - 1) :])
