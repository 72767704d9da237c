"""docs/extending.md, followed word by word in a folder of its own."""

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness import load_network
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport, evaluate_robustness
from tests import fork_server

pytestmark = pytest.mark.slow
DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
# Settings that the test adds to the document's commands, so that they take seconds.
SMALL = {
    "train": "data.train_size=64 data.validation_size=32 model.trunk=[pool,8] trainer.max_epochs=1 "
    "callback.num_images=8 callback.final_num_images=8 robustness.clever=null "
    "compute.precision=32-true compute.channels_last=true",
    "evaluate": "num_images=8 robustness.clever=null",
}
# -P: the folder at hand must come from PYTHONPATH, as it must for the installed command.
COMMANDS = {
    "symrob": f"""#!/bin/sh
case $1 in train) small="{SMALL["train"]}";; evaluate) small="{SMALL["evaluate"]}";; esac
exec "{sys.executable}" "{fork_server.__file__}" -P -m symmetry_robustness.app.cli "$@" $small
""",
    "python": f"""#!/bin/sh
exec "{sys.executable}" "{fork_server.__file__}" -P -c 'import runpy, sys; runpy.run_path(sys.argv[1])' "$@"
""",
}


def blocks(section: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks below a heading; of those before the first one for an empty section."""
    parts = re.split(r"^## (.+)\n", DOCUMENT.read_text(), flags=re.MULTILINE)
    texts = {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
    return re.findall(r"^```(\w+)\n(.*?)^```$", texts[section], flags=re.MULTILINE | re.DOTALL)


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=os.environ | fork_server.environment() | {"OMP_NUM_THREADS": "1", "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def follow(section: str, folder: Path) -> str:
    """Write the section's files, run its commands after those of the introduction, and return what they print."""
    script = "".join(text for _, text in blocks(""))
    for language, text in blocks(section):
        if language == "bash":
            script += text
        else:
            name = text.splitlines()[0].removeprefix("# ")
            assert re.fullmatch(r"[a-z_/]+\.(py|yaml)", name), f"the block does not name its file: {name}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    done = bash(script, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder after the section on stems."""
    made = tmp_path_factory.mktemp("study")
    (made / "bin").mkdir()
    for name, text in COMMANDS.items():
        (made / "bin" / name).write_text(text)
        (made / "bin" / name).chmod(0o755)
    follow("A stem", made)
    return made


def test_a_stem_is_trained_and_evaluated(folder: Path) -> None:
    summary = json.loads((folder / "runs/gabor/summary.json").read_text())
    assert (summary["status"], summary["name"]) == ("done", "gabor")
    report = RobustnessReport.load(folder / "runs/gabor/robustness/quick.json")
    assert set(report.minimal_epsilon) == {"fgsm", "pgd"}
    assert len(report) == 8


def test_its_filters_are_fixed_and_see_no_constant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    network = load_network(folder / "runs/gabor/checkpoints/last.ckpt", trusted=["gabor"])
    from gabor import gabor_bank

    assert torch.equal(network.stem.bank, gabor_bank(8, 4.0, 7).repeat(3, 1, 1, 1))
    torch.testing.assert_close(network.stem.bank.sum((1, 2, 3)), torch.zeros(48), rtol=0, atol=1e-5)
    torch.testing.assert_close(network.stem.bank.flatten(1).norm(dim=1), torch.ones(48))


def test_without_trust_the_checkpoint_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UserError, match=r"gabor\.GaborStem.*trusted="):
        load_network(folder / "runs/gabor/checkpoints/last.ckpt")


def test_a_folder_that_is_not_on_the_path_is_named(folder: Path) -> None:
    done = bash("symrob train --config-dir conf model=gabor", folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "gabor.GaborStem" in done.stderr
    assert "PYTHONPATH" in done.stderr


def test_a_measure_and_its_figure_beside_the_evaluation_in_the_page_and_in_the_tracker(folder: Path) -> None:
    assert "of the predictions" in follow("A measure", folder)
    report = RobustnessReport.load(folder / "runs/gabor/robustness/brightness.json")
    assert report.measures["brightness"]["correct"].shape == (8, 4)
    assert "brightness.correct" in (folder / "report/tables/measures.csv").read_text()
    assert [path.name for path in folder.glob("runs/gabor/**/*brightness-curves.png")]
    runs = re.findall(r'id="run-\d+">([^<]+)<', (folder / "report/report.html").read_text())
    assert any("brightness factor" in gzip.decompress(base64.b64decode(run)).decode() for run in runs)
    script = "symrob train --config-dir conf model=gabor robustness=brightness logger=wandb hydra.run.dir=runs/tracked"
    done = bash(f'export PYTHONPATH="$PWD:$PYTHONPATH" WANDB_MODE=offline\n{script}', folder)
    assert done.returncode == 0, done.stdout + done.stderr
    media = [path.name for path in folder.glob("runs/tracked/wandb/**/media/images/**/*.png")]
    assert any("brightness" in name for name in media), media


def test_a_data_set(folder: Path) -> None:
    printed = follow("A data set", folder)
    assert "test split of stripes of contrast 30; test images rotated by 0, 90, 180, 270 degrees" in printed
    assert json.loads((folder / "runs/stripes/summary.json").read_text())["data"] == "stripes of contrast 30"


def test_an_attack(folder: Path) -> None:
    follow("An attack", folder)
    report = RobustnessReport.load(folder / "runs/gabor/robustness/fade.json")
    assert report.settings["attacks"]["fade"] == {"class": "Fade", "grey": 0.5}
    assert {check.name: check.status for check in report.checks}["inside_ball"] == "passed"


def test_an_attack_that_minimises_the_norm_is_called_once_for_each_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow("An attack that minimises the norm", folder)
    report = RobustnessReport.load(folder / "runs/gabor/robustness/contrast.json")
    assert report.settings["attacks"]["contrast"]["steps"] == 10
    assert {check.name: check.status for check in report.checks}["inside_ball"] == "passed"
    monkeypatch.syspath_prepend(folder)
    from contrast import Contrast

    class Counted(Contrast):
        seen = 0

        def __call__(self, network: nn.Module, images: Tensor, *rest: object, **settings: object) -> Tensor:
            type(self).seen += len(images)
            return super().__call__(network, images, *rest, **settings)

    # The class is the brightest channel: the margins of 0.1 and 0.2 vanish without contrast, and never before.
    network, labels = nn.Flatten().eval(), torch.tensor([0, 0])
    images = torch.tensor([[0.5, 0.4, 0.4], [0.5, 0.3, 0.3]])[:, :, None, None]
    protocol = EvaluationProtocol(attacks={"contrast": Counted()}, epsilons=[0.02, 0.05, 0.1, 0.3], checks="cheap")
    evaluate_robustness(network, images, labels, protocol)
    assert Counted.seen == 2


def test_an_objective(folder: Path) -> None:
    follow("An objective", folder)
    assert "focal.FocalLoss" in (folder / "runs/focal/config.yaml").read_text()
    assert "train/cross_entropy" in (folder / "runs/focal/metrics.csv").read_text()


def test_every_section_is_followed() -> None:
    sections = re.findall(r"^## (.+)$", DOCUMENT.read_text(), flags=re.MULTILINE)
    followed = re.findall(r'follow\("(.+?)"', Path(__file__).read_text())
    assert sections == followed
