import importlib
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from symmetry_robustness import build_network, load_config
from symmetry_robustness.app.evaluation import evaluate, own_code


def test_a_report_is_of_the_code_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "an_attack_of_mine.py"
    file.write_text("STEPS = 10\n")
    importlib.import_module("an_attack_of_mine")
    before = own_code()
    assert "an_attack_of_mine" in before
    assert not {"torch", "json", "symmetry_robustness.app.evaluation"} & set(before)
    file.write_text("STEPS = 20\n")
    after = own_code()
    assert {name for name in before if before[name] != after.get(name)} == {"an_attack_of_mine"}


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
    # The table has each accuracy with its standard error.
    estimate = report.accuracy("pgd", report.epsilons[-1])
    assert f"{100 * estimate.value:.1f} ± {100 * estimate.standard_error:.1f}" in output
    assert "pgd 8/255 %" in output
    elsewhere = tmp_path / "elsewhere"
    evaluate(load_config("evaluate", [f"checkpoint={path}", *PROTOCOL, f"output={elsewhere}"]))
    assert (elsewhere / "quick.json").is_file()
    assert "no run directory" not in capsys.readouterr().out
