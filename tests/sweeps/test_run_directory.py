from pathlib import Path

import pytest

from symmetry_robustness import load_config
from symmetry_robustness.errors import UserError
from symmetry_robustness.sweeps.run_directory import add_environment, freeze, read_config, read_json, write_text


def test_a_frozen_run_is_read_back_and_never_overwritten(tmp_path: Path) -> None:
    config = load_config("train", ["seed=3"])
    freeze(config, tmp_path / "run", ["symrob", "train", "seed=3"])
    assert read_config(tmp_path / "run") == config
    with pytest.raises(UserError, match="already holds a run"):
        freeze(config, tmp_path / "run", [])


def test_provenance_tells_command_code_and_machine(tmp_path: Path) -> None:
    freeze(load_config("train", ["seed=3"]), tmp_path, ["symrob", "train", "seed=3"])
    before = read_json(tmp_path / "provenance.json")
    add_environment(tmp_path)
    after = read_json(tmp_path / "provenance.json")
    assert before.items() <= after.items()
    assert after["command"] == ["symrob", "train", "seed=3"]
    assert after["seed"] == 3
    assert after["packages"]["torch"]
    assert after["hardware"]["cores"] >= 1


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        read_config(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_text(path, 1)  # type: ignore[arg-type]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is damaged"),
        ("- a", "no configuration of a run"),
        ("seed: 0", "no configuration of a run"),
        ("data: {root: '${oc.env:HOME}'}", "do not trust it"),
        ("data: &a {b: 1}\nmore: *a", "do not trust it"),
    ],
)
def test_a_configuration_that_no_run_wrote_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
