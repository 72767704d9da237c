from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from symmetry_robustness import build_network, load_config
from symmetry_robustness.app.evaluation import _calibration, _Images, evaluate, find_worker
from symmetry_robustness.data import ShapesDataModule
from symmetry_robustness.data.archives import CIFAR10
from symmetry_robustness.data.module import to_float
from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.frame import CORRUPTED, load_runs
from symmetry_robustness.robustness import Detection, EvaluationProtocol, OrbitInconsistency
from tests.data.conftest import PER_FILE, batch, shrink, write_binary, write_corrupted
from tests.reporting.made import make_run


def test_a_checkpoint_has_the_corruption_error_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar10 = shrink(CIFAR10)
    monkeypatch.setattr("symmetry_robustness.data.corruptions.CIFAR10C.cifar", cifar10)
    root, clean = tmp_path / "data", ["robustness=clean", "num_images=null"]
    write_binary(cifar10, root)
    write_corrupted("CIFAR-10-C", root, batch(5)[1])
    words = ["data=cifar10c", f"data.root={root}"]
    config = load_config("train", ["model=standard_4layer", *words, "data.validation_size=0"])
    torch.manual_seed(0)
    network = build_network(config).eval()
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    tests = {}
    with torch.no_grad():
        datamodule = instantiate(config.data)
        for name, loader in zip(datamodule.test_names, datamodule.test_dataloader(), strict=True):
            right = [(network(to_float(images)).argmax(1) == labels) for images, labels in loader]
            tests[f"test/{name}/accuracy"] = float(torch.cat(right).double().mean())
    accuracy = sum(tests.values()) / len(tests)
    data = OmegaConf.to_container(config.data)
    summary = {"test_accuracy": tests, "clean_accuracy": accuracy, "test_images": PER_FILE, "robustness_images": 0}
    run = make_run(tmp_path / "run", data=data, summary=summary)
    trained = load_runs(run)
    path = run / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    torch.save({"config": OmegaConf.to_yaml(config), "state_dict": state}, path)
    report = evaluate(load_config("evaluate", [f"checkpoint={path}", *clean]))
    assert report is not None
    assert report.provenance["test_images"] == PER_FILE
    expected = 1 - sum(tests[f"test/{name}/accuracy"] for name in CORRUPTED) / 75
    assert f"{100 * expected:.1f}" in capsys.readouterr().out.partition("mean corruption error %")[2].splitlines()[0]
    evaluated = load_runs(run)
    evaluated = evaluated[evaluated["weights"] == "best.ckpt"]
    for measure, number in (("test_accuracy", len(tests) + 1), ("mean_corruption_error", 1)):
        first, second = (rows[rows["measure"] == measure].set_index("view") for rows in (trained, evaluated))
        assert len(first) == len(second) == number
        for column in ("value", "standard_error", "images", "comparison_group", "protocol"):
            assert second[column].tolist() == pytest.approx(first[column].tolist()), column
    # Of some images it is an estimate, under the protocol.
    report = evaluate(load_config("evaluate", [f"checkpoint={path}", *clean[:1], "num_images=1000", "name=some"]))
    some = load_runs(run).query("measure == 'mean_corruption_error' and protocol == 'some'")
    assert report is not None
    assert some["images"].tolist() == [(report.indices < 75 * PER_FILE).sum()]
    assert some["value"].item() == pytest.approx(expected, abs=0.05)


PROTOCOL = ["robustness=quick", "robustness.clever=null", "num_images=16"]


def test_a_checkpoint_is_enough_wherever_it_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config("train", ["model=standard_4layer", "data.test_size=16"])
    state = {f"network.{name}": value for name, value in build_network(config).state_dict().items()}
    (tmp_path / "moved").mkdir()
    path = tmp_path / "moved" / "last.ckpt"
    torch.save({"config": OmegaConf.to_yaml(config), "state_dict": state}, path)
    report = evaluate(load_config("evaluate", [f"checkpoint={path}", *PROTOCOL]))
    assert report is not None
    output = capsys.readouterr().out
    saved = tmp_path / "moved" / "robustness" / "quick.json"
    assert f"lies in no run directory; its report goes to {saved.parent}, or to output=…" in output
    assert "test split of shapes" in output
    assert output.splitlines()[-1] == f"report: {saved}"
    assert saved.is_file()
    assert report.provenance["trained"] == {"name": config.name, "title": config.title, "seed": config.seed}
    # The table has each accuracy with its interval.
    estimate = report.accuracy("pgd", report.epsilons[-1])
    assert f"{100 * estimate.value:.1f} [" in output
    assert "pgd 8/255 %" in output
    elsewhere = tmp_path / "elsewhere"
    evaluate(load_config("evaluate", [f"checkpoint={path}", *PROTOCOL, f"output={elsewhere}"]))
    assert (elsewhere / "quick.json").is_file()
    assert "no run directory" not in capsys.readouterr().out


@pytest.mark.parametrize("rank", ["x", "", "-1", "2", "1.0"])
def test_a_place_that_is_none_is_refused(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert find_worker() == (0, 1)
    monkeypatch.setenv("SLURM_PROCID", rank)
    with pytest.raises(UserError, match=f"SLURM_PROCID={rank} and SLURM_NTASKS=2"):
        find_worker()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert find_worker() == (1, 2)


@pytest.mark.parametrize("available", [0, 60, 200])
def test_detectors_get_as_many_validation_images_as_they_state_or_are_refused(available: int) -> None:
    datamodule = ShapesDataModule(num_classes=10, train_size=8, validation_size=available, test_size=8)
    data = _Images(datamodule, *datamodule.subset("test", 4, 0))
    measure = Detection(OrbitInconsistency(), false_positive_rate=0.1, calibration_images=100)
    protocol = EvaluationProtocol(epsilons=[], measures={"orbit": measure})
    config = OmegaConf.create({"split": "test", "seed": 0, "protocol": "detection"})
    if available < 100:
        with pytest.raises(UserError, match=f"data.validation_size={available} has fewer"):
            _calibration(config, data, protocol)
        return
    images = _calibration(config, data, protocol)
    assert images is not None
    assert len(images) == 100
