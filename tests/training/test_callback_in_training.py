"""The callback inside a real Trainer, with a clock that only batches and attacked images move."""

import itertools
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from symmetry_robustness.training.checkpoints import RobustCheckpoint
from tests import fork_server

from .slow_motion import Training


@pytest.fixture(autouse=True)
def _every_line_is_captured(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "symmetry_robustness.training.callback"):
        yield


@pytest.mark.parametrize(
    ("fixed", "per_image", "images", "epochs"),
    [
        (0, 0.01, [8, 16, 32, 64, 64, 64, 64, 64], range(8)),
        (1, 0.2, [8, 16, 32, 32, 32, 32, 32, 32], range(8)),
        (0, 0.9, [8, 8, 16, 8, 8, 8, 8, 8], range(8)),
        (0, 2.4, [8, 8, 8, 8], [0, 3, 5, 7]),
    ],
    ids=["fast", "slower", "slow", "slowest"],
)
def test_a_slow_evaluation_gets_fewer_images_then_fewer_epochs(
    fixed: float, per_image: float, images: list[int], epochs: list[int], tmp_path: Path
) -> None:
    training = Training(tmp_path, fixed, per_image).fit(8)
    found = training.reports()
    assert {epoch: len(report) for epoch, report in found.items()} == dict(zip(epochs, images, strict=True))
    rows = training.metrics()
    measured = {epoch: row["robust/images"] for epoch, row in enumerate(rows) if row["robust/images"]}
    assert measured == {epoch: f"{len(report)}.0" for epoch, report in found.items()}
    cost, spent = {size: fixed + per_image * size for size in (8, 16, 32, 64)}, 0.0
    for epoch, row in enumerate(rows):
        spent += cost[len(found[epoch])] if epoch in found else 0
        assert float(row["robust/share_of_epoch"]) == pytest.approx(spent / (100 * (epoch + 1)), rel=1e-6)
    assert float(rows[-1]["robust/share_of_epoch"]) <= 0.1


def test_smaller_subsets_lie_in_larger_ones(tmp_path: Path) -> None:
    found = [set(report.indices) for report in Training(tmp_path, per_image=0.01).fit(4).reports().values()]
    assert [len(indices) for indices in found] == [8, 16, 32, 64]
    assert all(small < large for small, large in itertools.pairwise(found))


def test_every_choice_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Training(tmp_path, per_image=2.4).fit(8)
    told = [line for line in caplog.messages if line.startswith("robustness during training")]
    assert told == [
        "robustness during training: at first 8 images after every epoch",
        "robustness during training: 8 images (of 8 to 64) after every 2 epochs, after a pause of about 3 epochs: "
        "19.2 s each, 100 s of training per epoch; 19.2% spent of callback.max_share_of_epoch=0.1",
    ]


def test_a_minimum_that_does_not_fit_is_told_and_not_reduced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = Training(tmp_path, fixed=300).fit(4).reports()
    assert {epoch: len(report) for epoch, report in found.items()} == {0: 8}
    assert sum("no further evaluation, 8 images (callback.min_images) do not fit" in m for m in caplog.messages) == 1


def test_without_a_limit_the_settings_decide(tmp_path: Path) -> None:
    found = Training(tmp_path, fixed=300, max_share_of_epoch=None, every_n_epochs=2).fit(4).reports()
    assert {epoch: len(report) for epoch, report in found.items()} == {1: 64, 3: 64}


def test_the_final_evaluation_is_outside_of_the_budget(tmp_path: Path) -> None:
    training = Training(tmp_path, fixed=300, every_n_epochs=0).fit(1)
    assert training.reports() == {}
    assert training.callback.final_report is not None
    assert len(training.callback.final_report) == 8
    assert training.callback.budget.spent_share == 0


def test_checks_during_training_are_cheap_and_full_at_the_end(tmp_path: Path) -> None:
    training = Training(tmp_path).fit(1)
    assert training.reports()[0].settings["checks"] == "cheap"
    assert training.callback.final_report is not None
    assert training.callback.final_report.settings["checks"] == "full"
    # The attack changes nothing, and only what it returns counts: that is told.
    (row,) = training.metrics()
    assert float(row["robust/checks_warned"]) >= 1
    assert row["robust/checks_failed"]


def test_checks_that_did_not_pass_are_lines_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Training(tmp_path).fit(1)
    (line,) = [m for m in caplog.messages if m.startswith("validation-epoch=000: check protocol_settings")]
    assert line.endswith("warned: only images that attacks return count, not the iterates before")


class Interruption(pl.Callback):
    """Ends the process, as it were, at the beginning of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("interrupted")


def checkpoint(directory: Path) -> ModelCheckpoint:
    return ModelCheckpoint(directory, "last", save_on_train_epoch_end=True, enable_version_counter=False)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_resumed_run_goes_on_with_what_it_learned(epoch: int, tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole", 2, 0.6).fit(8)
    with pytest.raises(RuntimeError, match="interrupted"):
        Training(tmp_path / "part", 2, 0.6).fit(8, checkpoint(tmp_path / "checkpoints"), Interruption(epoch))
    resumed = Training(tmp_path / "part", 2, 0.6)
    resumed.fit(8, checkpoint(tmp_path / "checkpoints"), resume=tmp_path / "checkpoints" / "last.ckpt")
    for a, b in zip(whole.metrics(), resumed.metrics(), strict=True):
        assert (a["robust/images"], a["robust/share_of_epoch"]) == (b["robust/images"], b["robust/share_of_epoch"])
    assert {k: len(v) for k, v in whole.reports().items()} == {k: len(v) for k, v in resumed.reports().items()}


def test_training_is_bit_identical_with_and_without_the_callback(tmp_path: Path) -> None:
    states = []
    for number, settings in enumerate(({"every_n_epochs": 0}, {}, {"max_share_of_epoch": None})):
        training = Training(tmp_path / str(number), per_image=0.5, **settings).fit(4)
        states.append(training.classifier.network.state_dict())
    assert all(torch.equal(states[0][key], state[key]) for state in states for key in state)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("resume_at", [None, 1, 4])
def test_the_best_checkpoint_is_one_whose_robustness_was_evaluated(resume_at: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"

    def run(*callbacks: pl.Callback, resume: Path | None = None) -> tuple[Training, RobustCheckpoint]:
        training = Training(tmp_path / "run", per_image=0.9, min_images=16, num_images=16)
        metric = {"monitor": "robust/clean", "mode": "max"}
        best = RobustCheckpoint(training.callback, dirpath=folder, filename="{epoch}", **metric)
        return training.fit(8, best, checkpoint(folder), *callbacks, resume=resume), best

    if resume_at is not None:
        with pytest.raises(RuntimeError, match="interrupted"):
            run(Interruption(resume_at))
    training, best = run(resume=None if resume_at is None else folder / "last.ckpt")
    found = {epoch: report.clean_accuracy for epoch, report in training.reports().items()}
    assert list(found) == [0, 2, 4, 6]
    chosen = max(found, key=lambda epoch: found[epoch])
    assert Path(best.best_model_path).name == f"epoch={chosen}.ckpt"
    assert float(best.best_model_score or 0) == pytest.approx(found[chosen])


@pytest.mark.slow
def test_all_processes_follow_the_clock_of_the_first(tmp_path: Path) -> None:
    """Two real ones; they would wait for each other for ever if one evaluated and the other did not."""
    done = fork_server.run(
        [sys.executable, "-m", "tests.training.slow_motion", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    training = Training(tmp_path)
    # Each rank attacks half of the images, so that the first one sees 7.2 s for 8 images and 14.4 s for 16.
    assert {epoch: len(report) for epoch, report in training.reports().items()} == {0: 8, 1: 8, 2: 16, 3: 8, 4: 8, 5: 8}
    shares = [float(row["robust/share_of_epoch"]) for row in training.metrics()]
    assert shares == pytest.approx([0.072, 0.072, 0.096, 0.09, 0.0864, 0.084])


def test_what_the_budget_keeps_is_plain(tmp_path: Path) -> None:
    training = Training(tmp_path, per_image=0.5).fit(3)
    state = training.callback.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert np.isfinite(state["spent"])
