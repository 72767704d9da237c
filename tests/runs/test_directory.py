import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from symmetry_robustness import load_config
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import config_hash, create_run, read_config, refresh_run
from symmetry_robustness.runs.json_files import write_json
from symmetry_robustness.runs.provenance import add_environment
from tests.fork_server import Popen


def loaded(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def test_a_frozen_run_is_read_back_and_never_overwritten(tmp_path: Path) -> None:
    config = load_config("train", ["seed=3"])
    create_run(config, tmp_path / "run", ["symrob", "train", "seed=3"])
    assert read_config(tmp_path / "run") == config
    with pytest.raises(UserError, match="already holds a run"):
        create_run(config, tmp_path / "run", [])


def test_provenance_tells_command_code_and_machine(tmp_path: Path) -> None:
    create_run(load_config("train", ["seed=3"]), tmp_path, ["symrob", "train", "seed=3"])
    before = loaded(tmp_path / "provenance.json")
    add_environment(tmp_path)
    after = loaded(tmp_path / "provenance.json")
    assert before.items() <= after.items()
    assert after["command"] == ["symrob", "train", "seed=3"]
    assert after["seed"] == 3
    assert after["packages"]["torch"]
    assert after["hardware"]["cores"] >= 1


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        read_config(tmp_path)


FREEZE = """
import sys
from pathlib import Path
from symmetry_robustness import load_config
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import create_run
config = load_config("train", [f"seed={sys.argv[2]}"])
input()
try:
    create_run(config, Path(sys.argv[1]), ["symrob"])
except UserError:
    sys.exit(2)
"""


def test_of_processes_that_freeze_into_one_directory_one_wins(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()  # as Hydra does
    command = [sys.executable, "-c", FREEZE, str(tmp_path / "run")]
    processes = [Popen([*command, str(seed)], stdin=subprocess.PIPE) for seed in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert sorted(process.wait(60) for process in processes) == [0, 2, 2, 2]
    about = loaded(tmp_path / "run" / "provenance.json")
    assert (about["seed"], about["key"]) == ((config := read_config(tmp_path / "run")).seed, config_hash(config))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="is not empty"):
        create_run(load_config("train", []), tmp_path / "run", [])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("damage", ["", "[]", "{", None])
def test_a_damaged_provenance_is_told_and_written_anew(tmp_path: Path, damage: str | None) -> None:
    config, path = load_config("train", ["seed=3"]), tmp_path / "run" / "provenance.json"
    create_run(config, tmp_path / "run", ["symrob", "train", "seed=3"])
    before = loaded(path)
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    with pytest.raises(UserError, match="is damaged or gone; the same command again") as caught:
        add_environment(tmp_path / "run")
    assert str(caught.value).endswith(f"hydra.run.dir={tmp_path / 'run'})")
    refresh_run(config, tmp_path / "run", ["symrob", "train", "seed=3"])
    add_environment(tmp_path / "run")
    after = loaded(path)
    assert all(after[name] == before[name] for name in ("command", "seed", "key", "code"))
    assert len(after["wandb_id"]) == len(before["wandb_id"])


@pytest.mark.parametrize("damage", [b"", b"a: [", b"\xff\xfe\0"])
def test_a_damaged_configuration_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    config = load_config("train", ["seed=3"])
    create_run(config, tmp_path / "run", [])
    (tmp_path / "run" / "config.yaml").write_bytes(damage)
    refresh_run(config, tmp_path / "run", [])
    assert read_config(tmp_path / "run") == config


def test_of_a_run_that_is_done_where_it_came_from_is_not_made_up(tmp_path: Path) -> None:
    config = load_config("train", ["seed=3"])
    create_run(config, tmp_path / "run", [])
    write_json(tmp_path / "run" / "summary.json", {"status": "done"})
    (tmp_path / "run" / "provenance.json").unlink()
    refresh_run(config, tmp_path / "run", [])
    assert not (tmp_path / "run" / "provenance.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is damaged"),
        (b"\xff\xfe\0", "is damaged"),
        ("- a", "no configuration of a run"),
        ("seed: 0", "no configuration of a run"),
    ],
)
def test_a_configuration_that_no_run_wrote_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    (tmp_path / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
