"""Catastrophic overfitting is seen where it is planted, and only trainings against attacks are watched."""

import csv
import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from symmetry_robustness import load_config
from symmetry_robustness.attacks import FGSM, PGD, ThreatModel
from symmetry_robustness.data import ShapesDataModule
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness
from symmetry_robustness.training import Classifier, CrossEntropy, Objective, RobustnessCallback
from symmetry_robustness.training.metrics_csv import MetricsCSV
from symmetry_robustness.training.overfitting import NAME, Watched, protocol

CONF = Path(__file__).parents[2] / "conf" / "objective"
THREAT = ThreatModel("linf", 0.1)


class Waves(nn.Module):
    """Logits of class 0 that a step of epsilon leaves as they are, and steps of a quarter of it turn around."""

    def __init__(self) -> None:
        super().__init__()
        self.others = nn.Parameter(torch.zeros(9))

    def forward(self, images: Tensor) -> Tensor:
        waves = 0.5 + torch.cos(2 * torch.pi * (images - 0.5) / THREAT.epsilon).mean((1, 2, 3))
        return torch.cat([waves[:, None], self.others.expand(len(images), -1)], 1)


def test_a_network_that_only_withstands_one_step_is_found() -> None:
    images = 0.5 + 0.004 * torch.rand(16, 3, 8, 8)
    report = evaluate_robustness(Waves(), images, torch.zeros(16, dtype=torch.int64), protocol(THREAT, 0))
    fgsm, pgd = (report.accuracy(name, THREAT.epsilon).value for name in ("fgsm", "pgd"))
    assert (fgsm, pgd) == (1, 0)
    check = Watched(fgsm, pgd, THREAT).check
    assert (check.name, check.status) == (NAME, "warned")
    assert "FGSM 100.0%, PGD-10 0.0%" in check.evidence


@pytest.mark.parametrize(
    ("fgsm", "pgd", "status"),
    [
        (0.9, 0.0, "warned"),
        (0.6, 0.29, "warned"),
        (0.6, 0.31, "passed"),
        (0.6, 0.55, "passed"),
        (0.15, 0.0, "passed"),
    ],
)
def test_only_a_collapse_is_told(fgsm: float, pgd: float, status: str) -> None:
    assert Watched(fgsm, pgd, THREAT).check.status == status


@dataclass(frozen=True)
class Against(CrossEntropy):
    """Cross-entropy that says that it trains against a threat."""

    defends: ThreatModel | None = None


def fit(
    objective: Objective,
    directory: Path,
    network: nn.Module | None = None,
    kind: type[ShapesDataModule] = ShapesDataModule,
) -> tuple[Classifier, ShapesDataModule]:
    torch.manual_seed(0)
    attack = EvaluationProtocol({"fgsm": FGSM()}, epsilons=[0.02], checks="cheap")
    callback = RobustnessCallback(attack, num_images=32, max_share_of_epoch=None, final_num_images=32)
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    module = Classifier(network, objective, partial(torch.optim.SGD, lr=0.01), num_classes=10, test_names=["test"])
    sizes = {"train_size": 300, "validation_size": 64, "test_size": 64, "batch_size": 50, "evaluation_batch_size": 64}
    datamodule = kind(num_classes=10, **sizes)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=MetricsCSV(directory), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
        default_root_dir=directory, callbacks=[callback],
    )  # fmt: skip
    trainer.fit(module, datamodule=datamodule)
    return module, datamodule


def metrics(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def statuses(directory: Path) -> dict[str, str]:
    """Status of the check in each report."""
    found = {}
    for path in (directory / "robustness").glob("*.json"):
        checks = {check["name"]: check["status"] for check in json.loads(path.read_text())["checks"]}
        found[path.stem] = checks.get(NAME, "none")
    return found


def test_accuracies_on_training_images_are_logged_and_judged(tmp_path: Path) -> None:
    module, datamodule = fit(Against(defends=ThreatModel("linf", 0.002)), tmp_path)
    images, labels, indices = datamodule.subset("train", 256, 0)
    attacks = EvaluationProtocol({"fgsm": FGSM(), "pgd": PGD(10, random_start=True)}, epsilons=[0.002])
    report = evaluate_robustness(module.network.eval(), images, labels, attacks, indices=indices)
    last = metrics(tmp_path)[1]
    for name in ("fgsm", "pgd"):
        assert float(last[f"train/robust/{name}"]) == pytest.approx(report.accuracy(name, 0.002).value, abs=1e-6)
    assert 0 < report.accuracy("fgsm", 0.002).value < report.clean_accuracy
    expected = {"validation-epoch=000", "validation-epoch=001", "test"}
    assert statuses(tmp_path) == dict.fromkeys(expected, "passed")  # a linear network has no other attack than FGSM


class Grey(ShapesDataModule):
    """Training images of one grey and one class."""

    def load_train(self) -> tuple[Tensor, Tensor]:
        images, labels = super().load_train()
        return torch.full_like(images, 127), torch.zeros_like(labels)


def test_a_collapse_is_told_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fit(Against(defends=THREAT), tmp_path, network=Waves(), kind=Grey)
    told = [line for line in caplog.messages if NAME in line]
    assert [line.split(":")[0] for line in told] == ["validation-epoch=000", "validation-epoch=001", "test"]
    assert all("FGSM 100.0%, PGD-10 0.0%; the training has overfitted to single steps" in line for line in told)
    assert set(statuses(tmp_path).values()) == {"warned"}


def test_other_objectives_are_not_watched(tmp_path: Path) -> None:
    fit(CrossEntropy(), tmp_path)
    assert set(statuses(tmp_path).values()) == {"none"}
    assert not any("train/robust/pgd" in row for row in metrics(tmp_path))


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_objectives_with_an_epsilon_say_what_they_train_against(path: Path) -> None:
    objective = instantiate(load_config("train", [f"objective={path.stem}"]).objective)
    within = getattr(objective, "around", objective)
    if not hasattr(within, "epsilon"):
        assert getattr(objective, "defends", None) is None
    elif float(within.epsilon):
        assert objective.defends.epsilon == pytest.approx(float(within.epsilon))
    else:
        assert objective.defends is None
