"""Views of the test images through the commands: trained with one kind, evaluated on another."""

import json
from pathlib import Path

import numpy as np
import pytest

from symmetry_robustness import load_config
from symmetry_robustness.app.evaluation import evaluate
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import RobustnessReport
from symmetry_robustness.runs.directory import create_run
from symmetry_robustness.runs.signals import Signals
from symmetry_robustness.runs.train import train

SMALL = [
    "model=standard_4layer",
    "data.train_size=64",
    "data.validation_size=0",
    "data.test_size=40",
    "trainer.max_epochs=1",
    "robustness=none",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("views") / "run"
    config = load_config("train", [*SMALL, "data/test_transform=scaled", "data.test_transform.scales=[0.5,1]"])
    create_run(config, directory, [])
    train(config, directory, Signals(leader=True))
    return directory


def evaluated(run: Path, *words: str) -> RobustnessReport:
    protocol = ["robustness=quick", "~robustness.attacks.pgd", "robustness.clever=null", "num_images=null"]
    report = evaluate(load_config("evaluate", [f"checkpoint={run / 'checkpoints/last.ckpt'}", *protocol, *words]))
    assert report is not None
    return report


def test_each_view_has_an_accuracy_and_the_summary_says_of_what(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["test_accuracy"]) == {"test/scale_0.5/accuracy", "test/scale_1/accuracy"}
    assert summary["data"] == "shapes, drawn from seed 0; test images scaled by 0.5, 1"
    assert "test/scale_0.5/accuracy" in (run / "metrics.csv").read_text().splitlines()[0]


def test_a_checkpoint_is_evaluated_on_other_views_of_its_own_data(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rotated = "data/test_transform=rotated"
    plain = evaluated(run, "name=plain", "+data.test_transform=null")
    full = evaluated(run, "name=full", rotated, "data.test_transform.angles=[360]")
    quarter = evaluated(run, "name=quarter", rotated, "data.test_transform.angles=[90]")
    assert "test split of shapes, drawn from seed 0; test images rotated by 90 degrees" in capsys.readouterr().out
    assert len(plain) == 40
    np.testing.assert_array_equal(full.predictions, plain.predictions)
    np.testing.assert_array_equal(quarter.labels, plain.labels)
    np.testing.assert_array_equal(quarter.examples["clean"], np.rot90(plain.examples["clean"], 1, (2, 3)))
    assert quarter.provenance["data"]["test_transform"]["angles"] == [90]


@pytest.mark.parametrize(
    ("word", "named"),
    [("+data.test_transform.angles=[90]", r"data\.test_transform"), ("+data.test_sise=3", r"data\.test_sise")],
)
def test_settings_the_data_set_does_not_have_are_refused(run: Path, word: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        evaluated(run, word, "name=refused")
