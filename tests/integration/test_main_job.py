"""The main job as a user runs it: real processes, real files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from symmetry_robustness import load_network

from ..training.wandb_server import history, offline_runs
from .commands import symrob

# The smallest job that still does everything.
TINY = [
    "model=standard_4layer",
    "data.train_size=256",
    "data.validation_size=128",
    "data.test_size=128",
    "data.batch_size=64",
    "trainer.max_epochs=2",
    "callback.num_images=16",
    "callback.max_share_of_epoch=null",
    "callback.final_num_images=16",
    "robustness.epsilons=[1/255,8/255]",
    "robustness.attacks.pgd.steps=2",
    "robustness.clever.num_batches=3",
    "robustness.clever.samples_per_batch=8",
]


def train(directory: Path, *words: str, small: list[str] = TINY) -> Path:
    done = symrob("train", *small, f"hydra.run.dir={directory}", *words, directory=directory.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("job") / "run", "logger=wandb", "checkpoint.monitor=robust/pgd/linf_0.03137")


def test_the_run_directory_is_complete(run: Path) -> None:
    for name in ("config.yaml", "provenance.json", "metrics.csv", "summary.json", "log.txt"):
        assert (run / name).stat().st_size > 0, name
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    stems = {p.stem for p in (run / "robustness").glob("*.json")}
    assert stems == {"validation-epoch=000", "validation-epoch=001", "test", "best"}
    assert stems == {p.stem for p in (run / "robustness").glob("*.npz")}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"
    assert 0 <= summary["robust_accuracy.pgd.linf_0.03137"] <= summary["robust_accuracy.pgd.linf_0.003922"] <= 1
    assert summary["clever"] >= 0


def test_metrics_hold_one_row_per_epoch_and_one_for_the_end(run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["train/loss"]]
    assert len(trained) == 2
    assert all(
        row["validation/accuracy"] and row["robust/pgd/linf_0.03137"] and row["robust/clever"] for row in trained
    )
    assert all(float(row["robust/images"]) == 16 and row["robust/checks_failed"] for row in trained)
    assert all(float(row["robust/share_of_epoch"]) > 0 for row in trained)
    assert rows[-1]["test/accuracy"]


def test_exactly_one_wandb_run_with_pictures(run: Path) -> None:
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    pictures = [p.name for p in offline.rglob("*.png")]
    assert any("curves" in name for name in pictures)
    assert any("examples" in name for name in pictures)
    # Two evaluations during training and the one at the end: every check with its status and evidence.
    tables = [json.loads(path.read_text()) for path in offline.rglob("*.table.json")]
    assert len(tables) == 3
    assert all(table["columns"] == ["check", "status", "evidence"] for table in tables)
    assert all(["evaluation_mode", "passed"] in [row[:2] for row in table["data"]] for table in tables)
    (history,) = offline.glob("*.wandb")
    for name in ("robust/checks_failed", "robust/checks_warned", "robust/images", "test/robust/checks_failed"):
        assert name.encode() in history.read_bytes(), name


def test_wandb_has_the_metrics_of_metrics_csv(run: Path) -> None:
    ((identity, content),) = offline_runs(run).items()
    assert identity == json.loads((run / "provenance.json").read_text())["wandb_id"]
    told: dict[float, dict[str, float]] = {}
    for row in history(content):
        told.setdefault(float(row.pop("trainer/global_step")), {}).update(row)
    with (run / "metrics.csv").open(newline="") as file:
        kept = {float(row.pop("step")): {k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)}
    assert len(kept) == 3
    assert told == kept
    (settings,) = [record.run for record in content if record.HasField("run")]
    assert (settings.run_group, settings.job_type) == ("none", "standard_4layer")
    assert [record.exit.exit_code for record in content if record.HasField("exit")] == [0]


def test_the_checkpoint_is_the_trained_network(run: Path) -> None:
    network = load_network(run / "checkpoints" / "last.ckpt")
    assert not network.training
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_evaluating_the_checkpoint_repeats_the_final_report(run: Path) -> None:
    assert_report_repeats(run)


def test_the_callback_does_not_touch_training(run: Path, tmp_path: Path) -> None:
    small = [word for word in TINY if not word.startswith("robustness.")]
    without = train(tmp_path / "without", "robustness=none", "logger=csv", small=small)
    states = [
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for path in (run, without)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_same_seed_gives_the_same_run_and_another_a_different_one(run: Path, tmp_path: Path) -> None:
    summaries = [json.loads((train(tmp_path / str(s), f"seed={s}") / "summary.json").read_text()) for s in (0, 1)]
    first = json.loads((run / "summary.json").read_text())
    assert first.pop("best")  # chosen by a metric, as in no other of these
    for summary in (first, summaries[0]):
        assert summary.pop("training_seconds") > 0  # time is the one thing that chance decides
        assert summary.pop("images_per_second") > 0
        assert summary.pop("peak_memory") > 2**20
    assert summaries[0] == first
    assert summaries[1]["test_accuracy"] != first["test_accuracy"]


def test_a_finished_run_is_not_overwritten(run: Path) -> None:
    before = (run / "summary.json").read_bytes()
    done = symrob("train", *TINY, f"hydra.run.dir={run}", directory=run.parent)
    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert (run / "summary.json").read_bytes() == before


def test_a_sweep_runs_every_job_in_its_own_directory(tmp_path: Path) -> None:
    done = symrob(
        "train", "-m", *TINY, "seed=0,1", "trainer=cpu", f"hydra.sweep.dir={tmp_path / 'sweep'}", directory=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summaries = [json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("*/summary.json")]
    assert {s["group"] for s in summaries} == {"sweep"}
    assert sorted(s["seed"] for s in summaries) == [0, 1]


@pytest.mark.slow
def test_two_jobs_in_a_row_on_two_real_processes(tmp_path: Path) -> None:
    done = symrob(
        "train", "-m", *TINY, "trainer=ddp_cpu", "data.validation_size=0,128", "logger=wandb",
        "compute.precision=32-true", "compute.channels_last=true",
        f"hydra.sweep.dir={tmp_path / 'sweep'}", directory=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    directories = sorted(path.parent for path in (tmp_path / "sweep").glob("*/config.yaml"))
    assert len(directories) == 2
    for directory in directories:
        summary = json.loads((directory / "summary.json").read_text())
        assert (summary["status"], summary["robustness_images"]) == ("done", 16)
        assert summary["test_images"] > 0
        assert len(list((directory / "wandb").glob("offline-run-*"))) == 1
    with (directories[1] / "metrics.csv").open(newline="") as file:
        assert sum(1 for row in csv.DictReader(file) if row["train/loss"]) == 2
    # Without a validation pass nothing but the callback keeps the ranks' batch-norm statistics together.
    assert_report_repeats(directories[0])


def assert_report_repeats(run: Path) -> None:
    """The final report of a run is that of its last checkpoint."""
    from symmetry_robustness.robustness import RobustnessReport

    words = [
        f"checkpoint={run / 'checkpoints' / 'last.ckpt'}",
        "robustness=quick",
        "num_images=16",
        *(word for word in TINY if word.startswith("robustness.")),
    ]
    done = symrob("evaluate", *words, "name=again", directory=run.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    ours = RobustnessReport.load(run / "robustness" / "test.json")
    again = RobustnessReport.load(run / "robustness" / "again.json")
    np.testing.assert_array_equal(ours.indices, again.indices)
    np.testing.assert_array_equal(ours.minimal_epsilon["pgd"], again.minimal_epsilon["pgd"])
    np.testing.assert_allclose(ours.distance["pgd"], again.distance["pgd"], atol=1e-6)
    assert ours.clean_accuracy == again.clean_accuracy
