"""A network that was trained elsewhere, evaluated by one command: a run like any other; every mistake in one line."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from symmetry_robustness.app import cli
from symmetry_robustness.data.shapes import make_shapes
from symmetry_robustness.reporting import load_runs
from symmetry_robustness.runs.directory import read_config

from .commands import TINY, symrob

PROTOCOL = ["robustness=quick", "robustness.clever=null", "robustness.measures={}", "num_images=16"]
DATA = ["data=shapes", "data.test_size=64"]
WEIGHTS = ["network._target_=my_resnet.ResNet18", "network.width=4", "weights=model.pt"]
NORMALIZED = ["mean=[0.5,0.5,0.5]", "std=0.5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a module, and weights of a short training in plain PyTorch."""
    folder = tmp_path_factory.mktemp("mine")
    shutil.copy(Path(__file__).with_name("my_resnet.py"), folder)
    (folder / "broken.py").write_text("import not_installed_anywhere\n")
    sys.path.insert(0, str(folder))
    try:
        from my_resnet import ResNet18, Small  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    torch.manual_seed(0)
    network, (images, labels) = ResNet18(width=4), make_shapes(256, seed=0, part=0)[:2]
    inputs, optimizer = (images.float() / 255 - 0.5) / 0.5, torch.optim.Adam(network.parameters(), 3e-3)
    for rows in torch.randperm(256).split(32) * 2:
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    state = network.state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "model.pt")
    torch.save(network, folder / "pickled.pt")
    torch.save({"epoch": 3}, folder / "empty.pt")
    torch.save({f"backbone.{key}": value for key, value in state.items()}, folder / "backbone.pt")
    torch.save(ResNet18(num_classes=100, width=4).state_dict(), folder / "hundred.pt")
    torch.save(Small().state_dict(), folder / "small.pt")
    return folder


@pytest.fixture(autouse=True)
def at_home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for path in (*folder.glob("*.py"), *folder.glob("*.pt")):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", ["symrob"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(**changes: str) -> list[str]:
    """The command's words for a network that works, some of them replaced or, where empty, left out."""
    words = {"network._target_": "my_resnet.ResNet18", "network.width": "4", "weights": "model.pt", "name": "mine"}
    words |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{name}={value}" for name, value in words.items() if value]


def other(name: str, **changes: str) -> list[str]:
    return [*network(network___target_=f"my_resnet.{name}", **changes), *DATA]


# (words, what the line must name)
WRONG = {
    "neither": (DATA, "neither checkpoint nor network"),
    "both": ([*network(), *DATA, "checkpoint=x.ckpt"], "checkpoint=x.ckpt both say"),
    "weights of a checkpoint": (["checkpoint=x.ckpt", "weights=model.pt"], "weights=model.pt belongs to a network"),
    "no class": ([*network(network___target_=""), *DATA], "network._target_ is not set"),
    "number for a network": (["network=3", "weights=model.pt", "name=mine", *DATA], "network=3 is no network"),
    "no weights": ([*network(weights=""), *DATA], "weights is not set"),
    "no name": ([*network(name=""), *DATA], "name is not set"),
    "no data": (network(), "data is not set; give the data set it is for, as in cifar10"),
    "name that is a path": ([*network(name="../mine"), *DATA], "name=../mine"),
    "class that is not there": (other("ResNet81"), "did you mean my_resnet.ResNet18?"),
    "module that is not there": ([*network(network___target_="resnets.ResNet18"), *DATA], "its folder in PYTHONPATH"),
    "module that fails": ([*network(network___target_="broken.ResNet18"), *DATA], "install not_installed_anywhere"),
    "setting that is not there": (other("ResNet18", network__classes="10"), "did you mean 'num_classes'?"),
    "setting of another type": (other("ResNet18", network__width="wide"), "network.width = 'wide'"),
    "constructor that refuses": (other("Small", network__width="4"), "cannot be built: unexpected {'width': 4}"),
    "function that makes no network": (other("number", network__width=""), "must be a network, got int"),
    "no file": (other("ResNet18", weights="models.pt"), "weights models.pt is no file"),
    "no state dict": (other("ResNet18", weights="empty.pt"), "hold a dictionary with 'epoch', no state dict"),
    "pickled module": (other("ResNet18", weights="pickled.pt"), "save the state dict alone: torch.save(network.state"),
    "keys that do not fit": (other("ResNet18", weights="backbone.pt"), "set weights_prefix=backbone"),
    "weights of another class": (other("Small", network__width=""), "120 are unexpected (conv1.weight"),
    "other shapes": (other("ResNet18", network__width="8"), "(4, 3, 3, 3) in the file and (8, 3, 3, 3)"),
    "other classes": (
        other("ResNet18", network__num_classes="100", weights="hundred.pt"),
        "has 100 classes, the data set 10",
    ),
    "images of another size": (other("Small", weights="small.pt", network__width=""), "images of shape (8, 3, 32, 32)"),
    "tuple": (other("Pair"), "network(images)[0]"),
    "dictionary": (other("Named"), "network(images)['logits']"),
    "probabilities": (other("Softmax"), "return the logits before the softmax"),
    "mean without std": (other("ResNet18", mean="0.5"), "mean=0.5 comes without std"),
    "mean of two channels": (other("ResNet18", mean="[0.5,0.5]", std="0.5"), "one number or 3, got [0.5, 0.5]"),
    "std of zero": (other("ResNet18", mean="0.5", std="0"), "std must be positive"),
    "std that overflows": (other("ResNet18", mean="0.5", std="1e-320"), "overflow in float32"),
    "mean that is none": (other("ResNet18", mean="nan", std="0.5"), "mean must be finite"),
    "mean that is no number": (other("ResNet18", mean="true", std="0.5"), "mean must be one number or 3, got True"),
    "constructor that ends Python": (other("leave", network__width=""), "ends the program with status 3"),
    "shards of no images": ([*other("ResNet18"), "shard_size=0"], "shard_size must be at least 1 image, got 0"),
    "more images than there are": ([*other("ResNet18"), "num_images=65"], "num_images=65"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG.keys())
def test_mistakes_are_one_line_and_leave_nothing_behind(
    words: list[str], named: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *PROTOCOL, *words]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert named in line, line
    assert not (tmp_path / "outputs").exists()


def test_a_network_becomes_a_run_beside_those_trained_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", *WEIGHTS, *NORMALIZED, *DATA, *PROTOCOL, "name=resnet18", "title=ResNet-18 of mine"]
    assert cli.main(command) == 0
    run = tmp_path / "outputs" / "resnet18"
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "provenance.json", "summary.json", "robustness"}
    assert (run / "robustness" / "test.npz").is_file()
    summary, provenance = (json.loads((run / name).read_text()) for name in ("summary.json", "provenance.json"))
    assert summary["status"] == "done"
    assert (summary["test_images"], summary["robustness_images"]) == (64, 16)
    assert summary["parameters"] > 10_000
    assert provenance["command"] == ["symrob", *command]
    assert read_config(run).model == {"_target_": "my_resnet.ResNet18", "width": 4}

    # The same again computes nothing; another protocol joins the run; other weights do not go by its name.
    before = (run / "robustness" / "test.json").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert "already evaluated" in capsys.readouterr().out
    assert (run / "robustness" / "test.json").stat().st_mtime_ns == before
    assert cli.main([*command, "robustness.epsilons=[1/255]", "robustness.norm=linf", "robustness.seed=1"]) == 0
    assert (run / "robustness" / "quick.json").is_file()
    capsys.readouterr()
    assert cli.main([*command, "network.width=8", "weights=hundred.pt", "network.num_classes=100"]) == 2
    assert cli.main([*command, "mean=0.4"]) == 2
    error = capsys.readouterr().err
    assert f"{Path('outputs') / 'resnet18'} holds another network (normalization.mean" in error

    for model in ("standard_4layer", "parallel_rotation_4layer"):
        overrides = [
            *TINY[1:-1],
            "data.test_size=64",
            *PROTOCOL[:-1],
            "callback.final_num_images=16",
            "callback.num_images=8",
        ]
        done = symrob("train", f"model={model}", *overrides, f"hydra.run.dir=outputs/{model}", directory=tmp_path)
        assert done.returncode == 0, done.stderr
    frame = load_runs("outputs")
    assert frame.attrs["problems"] == []
    rows = frame[(frame["measure"] == "robust_accuracy") & (frame["attack"] == "pgd")]
    same = rows.groupby("comparison_group")["network"].agg(set)
    assert {"resnet18", "standard_4layer", "parallel_rotation_4layer"} in list(same)
    assert cli.main(["status", "outputs", "--no-watch"]) == 0
    assert "3 done" in capsys.readouterr().out
    assert cli.main(["report", "outputs", "--output", "report"]) == 0
    table = (tmp_path / "report" / "tables" / "accuracy.md").read_text()
    assert "ResNet-18 of mine" in table
    assert "standard, 4 layers" in table
    assert table.count("Trained elsewhere, with settings that are not known here: ResNet-18 of mine.") == 1
    assert (tmp_path / "report" / "report.html").is_file()


def test_the_summary_is_that_of_the_evaluation_that_overwrote_another(tmp_path: Path) -> None:
    path, command = tmp_path / "outputs" / "mine" / "summary.json", ["evaluate", *network(), *DATA, *PROTOCOL[:-1]]
    assert cli.main([*command, "num_images=8"]) == 0
    before = json.loads(path.read_text())
    assert cli.main([*command, "num_images=16", "overwrite=true"]) == 0
    after = json.loads(path.read_text())
    assert (before["robustness_images"], after["robustness_images"]) == (8, 16)
    assert after["test_accuracy"] == before["test_accuracy"]
    assert (
        cli.main([*command, "num_images=4", "robustness.seed=1"]) == 0
    )  # another protocol, which is not the run's own
    assert json.loads(path.read_text()) == after


def test_a_network_whose_first_evaluation_failed_gives_its_place_to_the_corrected_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from symmetry_robustness.app import evaluation
    from symmetry_robustness.errors import UserError

    command = ["evaluate", *network(), *DATA, *PROTOCOL]
    with monkeypatch.context() as broken:
        broken.setattr(evaluation, "evaluate_in_shards", lambda *_, **__: (_ for _ in ()).throw(UserError("wrong")))
        assert cli.main([*command, "mean=0.1", "std=0.1"]) == 2
    run = tmp_path / "outputs" / "mine"
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert cli.main([*command, "mean=0.5", "std=0.5"]) == 0
    assert read_config(run).normalization == {"mean": 0.5, "std": 0.5}
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    assert cli.main([*command, "mean=0.1", "std=0.1"]) == 2
    assert "holds another network" in capsys.readouterr().err


def test_a_network_that_views_features_as_rows_is_evaluated(tmp_path: Path) -> None:
    summaries = []
    for name in ("ResNet18", "Viewed"):
        words = network(network___target_=f"my_resnet.{name}", name=name)
        assert cli.main(["evaluate", *words, *DATA, *PROTOCOL]) == 0
        summaries.append(json.loads((tmp_path / "outputs" / name / "summary.json").read_text()))
    assert summaries[0]["test_accuracy"] == summaries[1]["test_accuracy"]


def test_seeds_of_a_training_elsewhere_are_one_network(tmp_path: Path) -> None:
    short = [*WEIGHTS, *NORMALIZED, *DATA, *PROTOCOL, "name=mine"]
    state = torch.load("model.pt", weights_only=True)
    torch.save({key: value + 0.01 * value.float().abs().mean().to(value.dtype) for key, value in state.items()}, "b.pt")
    assert cli.main(["evaluate", *short]) == 0
    assert cli.main(["evaluate", *short, "weights=b.pt", "training_seed=1"]) == 0
    frame = load_runs("outputs")
    assert set(frame["run"]) == {"outputs/mine", "outputs/mine_seed-1"}
    assert frame["settings"].nunique() == 1
    assert set(frame["seed"]) == {0, 1}


def test_an_evaluation_that_fails_is_a_failed_run_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from symmetry_robustness.app import evaluation

    command = ["evaluate", *WEIGHTS, *DATA, *PROTOCOL, "name=mine", "output=elsewhere"]
    with monkeypatch.context() as broken:
        broken.setattr(evaluation, "evaluate_in_shards", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit, match="130"):
            cli.main(command)
    summary = json.loads((tmp_path / "elsewhere" / "mine" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert cli.main(["status", "elsewhere", "--no-watch"]) == 0
    assert "1 interrupted" in capsys.readouterr().out
    assert cli.main(command) == 0
    assert json.loads((tmp_path / "elsewhere" / "mine" / "summary.json").read_text())["status"] == "done"
