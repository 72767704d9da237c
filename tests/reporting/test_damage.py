"""Run directories that are damaged or odd: told in a line each, never averaged in, never the end of a report."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmetry_robustness.app.report import main
from symmetry_robustness.reporting import load_runs

from .made import draw_broken_at, make_report, make_run

PICTURES = dict.fromkeys(("clean", "fgsm", "pgd"), np.full((3, 3, 8, 8), 0.5, np.float32))


def whole(directory: Path, **changes: Any) -> Path:
    return make_run(directory, make_report(draw_broken_at(40, 0), examples=PICTURES), **changes)


def in_json(file: str, /, **changes: Any) -> Callable[[Path], object]:
    """Change the top level of a JSON file; a function gets what stands there."""

    def damage(run: Path) -> None:
        content = json.loads((run / file).read_text())
        for key, value in changes.items():
            content[key] = value(content.get(key)) if callable(value) else value
        (run / file).write_text(json.dumps(content))

    return damage


def in_npz(**changes: Any) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        path = run / "robustness" / "test.npz"
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        np.savez(path, **(arrays | {name.replace("__", "."): value for name, value in changes.items()}))

    return damage


def in_text(name: str, text: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(text)


def folder_for(name: str) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return damage


def file_for_a_folder(run: Path) -> None:
    shutil.rmtree(run / "robustness")
    (run / "robustness").write_text("x")


def flip_bytes_of_an_example(run: Path) -> None:
    path = run / "robustness" / "test.npz"
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("examples.pgd.npy")
    content = bytearray(path.read_bytes())
    start = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    content[start : start + 8] = bytes(byte ^ 0xFF for byte in content[start : start + 8])
    path.write_bytes(bytes(content))


def name_an_unknown_compression(run: Path) -> None:
    path = run / "robustness" / "test.npz"
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 10 : entry + 12] = (99).to_bytes(2, "little")
    path.write_bytes(bytes(content))


def without(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda found: {key: value for key, value in found.items() if key not in names}


TEST = "robustness/test.json"
MEAN = {"value": 0.5, "standard_error": None, "images": 3}
NAN = float("nan")
DAMAGE: dict[str, Callable[[Path], object]] = {
    "npz cut off": lambda run: os.truncate(run / "robustness" / "test.npz", 500),
    "bytes of an example": flip_bytes_of_an_example,
    "unknown compression": name_an_unknown_compression,
    "epsilon that is none": in_npz(minimal_epsilon__pgd=np.full(40, NAN)),
    "fewer images": in_npz(minimal_epsilon__pgd=np.ones(20)),
    "pickled": in_npz(minimal_epsilon__pgd=np.array([{}] * 40, dtype=object)),
    "examples of another shape": in_npz(examples__pgd=np.zeros((2, 5))),
    "no images": in_json(TEST, images=0),
    "summary of nothing": in_json(TEST, summary=lambda found: dict.fromkeys(found, NAN)),
    "epsilons that fall": in_json(TEST, epsilons=lambda found: found[::-1]),
    "epsilons in words": in_json(TEST, epsilons="abc"),
    "check without a name": in_json(TEST, checks=[{"status": "failed"}]),
    "check of unknown state": in_json(TEST, checks=[{"name": "x", "status": "exploded"}]),
    "protocol without a norm": in_json(TEST, settings=without("norm")),
    "attacks as a list": in_json(TEST, settings=lambda found: found | {"attacks": ["x"]}),
    "bounds in words": in_json(TEST, settings=lambda found: found | {"bounds": "x"}),
    "measure in words": in_json(TEST, measures={"m": {"value": MEAN | {"value": "x"}}}),
    "measures as a list": in_json(TEST, measures=[1]),
    "scores that are missing": in_json(TEST, measures={"clever": {"value": MEAN}}),
    "accuracy above one": in_json("summary.json", clean_accuracy=7.0),
    "accuracy below zero": in_json("summary.json", clean_accuracy=-3),
    "accuracy that is none": in_json("summary.json", clean_accuracy=NAN),
    "accuracy in words": in_json("summary.json", clean_accuracy="high"),
    "test accuracies as a list": in_json("summary.json", test_accuracy=[1]),
    "test accuracy in words": in_json("summary.json", test_accuracy={"test/accuracy": "x"}),
    "parameters in words": in_json("summary.json", parameters="many"),
    "seconds in words": in_json("summary.json", training_seconds="long"),
    "seed in words": in_json("summary.json", seed="one"),
    "seed too large": in_json("summary.json", seed=10**30),
    "epochs too many": in_json("summary.json", epochs=10**30),
    "name that is none": in_json("summary.json", name={"a": 1}),
    "group that is none": in_json("summary.json", group={"a": 1}),
    "images not counted": in_json("summary.json", robustness_images=None),
    "commit as a list": in_json("provenance.json", commit=["a"]),
    "deep JSON": in_text("summary.json", "[" * 100_000),
    "deep YAML": in_text("config.yaml", "a: " + "[" * 5000 + "]" * 5000),
    "YAML that runs code": in_text("config.yaml", "!!python/object/apply:os.system ['exit 1']"),
    "YAML that unfolds": in_text("config.yaml", "a: &a [x]\nname: *a\nseed: 0\ndata: {}\nmodel: {}\n"),
    "YAML of numbers": lambda run: in_text("config.yaml", (run / "config.yaml").read_text() + "\n1: 2\n")(run),
    "configuration is a folder": folder_for("config.yaml"),
    "summary is a folder": folder_for("summary.json"),
    "provenance is a folder": folder_for("provenance.json"),
    "arrays are a folder": folder_for("robustness/test.npz"),
    "evaluations are a file": file_for_a_folder,
}


def test_what_is_damaged_is_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(tmp_path / "sweep" / "good", seed=99)
    for name, damage in DAMAGE.items():
        damage(whole(tmp_path / "sweep" / name))
    assert main([str(tmp_path / "sweep"), "--output", str(tmp_path / "report")]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert [Path(re.split(r": (?:damaged|foreign)", line)[0]).name for line in told] == sorted(DAMAGE)
    assert set(load_runs(tmp_path / "sweep")["run"]) == {str(tmp_path / "sweep" / "good")}


ODD: dict[str, Callable[[Path], object]] = {
    "metrics that are none": lambda run: (run / "metrics.csv").write_bytes(os.urandom(5000)),
    "metrics in words": in_text("metrics.csv", "step,epoch,train/loss\n1,0,abc\n"),
    "epoch without end": in_text("metrics.csv", "step,epoch,train/loss\n1,inf,0.5\n"),
    "metrics are a folder": lambda run: (run / "metrics.csv").mkdir(),
    "no checks": in_json(TEST, checks=[]),
    "CLEVER that is no number": in_json("summary.json", clever=NAN),
    "formula": in_json("summary.json", name="net$\\frac$x"),
    "script": in_json("summary.json", name="</script><img src=x onerror=alert(1)>"),
    "long": in_json("summary.json", name="n" * 400),
    "two lines": in_json("summary.json", name="a\nb|c"),
    "path": in_json("summary.json", name="../../../evil"),
}


def test_what_is_odd_but_whole_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (name, change) in enumerate(ODD.items()):
        change(whole(tmp_path / "sweep" / f"{name}\nx", seed=seed))
    whole(tmp_path / "sweep" / "bytes", seed=77).rename(os.fsdecode(os.fsencode(tmp_path / "sweep") + b"/b\xff"))
    (tmp_path / "sweep" / "link").symlink_to(whole(tmp_path / "elsewhere", seed=88))
    (tmp_path / "sweep" / "loop").symlink_to(tmp_path / "sweep")
    assert main([str(tmp_path / "sweep"), "--output", str(tmp_path / "report")]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len([line for line in told if "metrics.csv: damaged" in line]) == 4
    frame = load_runs(tmp_path / "sweep")
    assert frame["seed"].nunique() == len(ODD) + 2
    unchecked = frame[(frame["seed"] == list(ODD).index("no checks")) & (frame["measure"] == "robust_accuracy")]
    assert set(unchecked["checks"]) == {""}
    assert not list((tmp_path / "report").rglob("*evil*/*"))
