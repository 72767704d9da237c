"""`symrob evaluate robustness=transfer sources=[…]`, from checkpoints to the matrix of a report."""

import json
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from symmetry_robustness import build_network, load_config
from symmetry_robustness.app.evaluation import evaluate
from symmetry_robustness.app.report import main as report
from symmetry_robustness.errors import UserError

PROTOCOL = ["robustness=transfer", "num_images=12", "robustness.epsilons=[8/255]", "+robustness.checks=cheap"]
PROTOCOL += [f"robustness.attacks.{rule}.attack.steps=2" for rule in ("mi", "vmi")]
PROTOCOL += [f"~robustness.attacks.{rule}" for rule in ("ni", "si_ni", "di", "ti")]
PROTOCOL += [
    "robustness.attacks.vmi.attack.neighbours=1",
    "robustness.attacks.pgd.steps=2",
    "robustness.keep_examples=1",
]


def checkpoint(directory: Path, name: str, *overrides: str) -> Path:
    config = load_config("train", ["model=standard_4layer", "data.test_size=16", f"name={name}", *overrides])
    torch.manual_seed(config.seed)
    state = {f"network.{key}": value for key, value in build_network(config).state_dict().items()}
    path = directory / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"config": OmegaConf.to_yaml(config), "state_dict": state}, path)
    return path


def test_the_tuned_protocol_adds_one_rule_from_each_source(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / f"run{seed}", "plain", f"seed={seed}") for seed in (0, 1)]
    sources = f"sources=[{','.join(map(str, paths))}]"
    names = []
    for choice in ("transfer", "transfer_tuned"):
        config = load_config("evaluate", [f"checkpoint={paths[0]}", sources, f"robustness={choice}"])
        names.append([*instantiate(config.robustness).attacks])
    assert names[1] == [*names[0], "awt_from_plain_seed0", "awt_from_plain_seed1"]


def test_a_matrix_of_two_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [checkpoint(tmp_path / f"run{seed}", "plain", f"seed={seed}") for seed in (0, 1)]
    sources = f"sources=[{','.join(map(str, paths))}]"
    for number, path in enumerate(paths):
        made = evaluate(load_config("evaluate", [f"checkpoint={path}", sources, f"output={tmp_path}/saved", *PROTOCOL,
                                                 f"name=target{number}"]))  # fmt: skip
        assert made is not None
        assert [*made.minimal_epsilon][:3] == ["pgd", "mi_from_plain_seed0", "mi_from_plain_seed1"]
        assert len(made.minimal_epsilon) == 5
        marks = [made.settings["attacks"][f"mi_from_plain_seed{seed}"]["white_box"] for seed in (0, 1)]
        assert marks == [number == 0, number == 1]
        origins = made.provenance["sources"]
        assert {name: origin["file"] for name, origin in origins.items()} == {
            f"plain_seed{seed}": str(paths[seed]) for seed in (0, 1)
        }
        assert origins[f"plain_seed{number}"]["digest"] == made.provenance["checkpoint"]
        assert f"mi from plain seed{number} (white box) 8/255" in capsys.readouterr().out.replace("\n", " ")
    # The same command finds the report; another source is another evaluation.
    again = [f"checkpoint={paths[0]}", f"output={tmp_path}/saved", "name=target0", *PROTOCOL]
    evaluate(load_config("evaluate", [sources, *again]))
    assert "already evaluated" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a report of another sources, robustness"):
        evaluate(load_config("evaluate", [f"sources=[{paths[0]}]", *again]))
    assert report([str(tmp_path / "saved"), "--output", str(tmp_path / "report")]) == 0
    table = (tmp_path / "report" / "tables" / "transfer.md").read_text()
    stored = [json.loads((tmp_path / "saved" / f"target{number}.json").read_text()) for number in (0, 1)]
    assert len(stored) == 2
    assert table.count("### Transfer, ") == 3
    assert "| crafted on \\ judged on | plain, seed 0 | plain, seed 1 |" in table
    rows = [line for line in table.splitlines() if line.startswith(("| plain, seed 0 |", "| plain, seed 1 |"))]
    assert all(("**" in row.split("|")[2 + number % 2]) for number, row in enumerate(rows))
    assert (tmp_path / "report" / "figures" / "transfer.png").is_file()


def compose(tmp_path: Path, *overrides: str) -> str:
    path = checkpoint(tmp_path / "run", "plain")
    with pytest.raises((UserError, InstantiationException)) as error:
        evaluate(load_config("evaluate", [f"checkpoint={path}", *(o.replace("OWN", str(path)) for o in overrides)]))
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["robustness=transfer"], "sources is empty; name the networks"),
        (["robustness=transfer", "sources=[nowhere.ckpt]"], "sources: checkpoint nowhere.ckpt is no file"),
        (["robustness=transfer", "sources=[OWN,OWN]"], "are the same file; leave one out"),
        (["robustness=quick", "sources=[OWN]"], "robustness=quick crafts no images on other networks"),
    ],
)
def test_bad_sources_are_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    assert message in compose(tmp_path, *overrides)
    assert not (tmp_path / "run" / "robustness").exists()


def test_a_training_has_no_sources() -> None:
    with pytest.raises((UserError, InstantiationException)) as error:
        load_config("train", ["robustness=transfer"])
    assert "sources are known to `symrob evaluate` alone" in str(error.value)


def test_a_source_of_other_classes_is_refused(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", "other", "data.num_classes=10", "model.num_classes=4")
    assert "source other has 4 classes, the target" in compose(
        tmp_path, "robustness=transfer", f"sources=[{other}]", "num_images=12"
    )
    assert not [*(tmp_path / "run").rglob("*.json")]


def test_a_source_is_trusted_no_more_than_any_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "other", "other")
    content = torch.load(path, weights_only=True)
    content["config"] = content["config"].replace("symmetry_robustness.models", "somebody.models")
    torch.save(content, path)
    assert "trusted" in compose(tmp_path, "robustness=transfer", f"sources=[{path}]")
