"""A user's mistakes: one clear line that names it, exit status 2, no traceback, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from symmetry_robustness import build_network, load_config
from symmetry_robustness.app import cli
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.settings import check_devices
from tests import fork_server
from tests.waiting import wait_until

from .commands import symrob

SHAPES = ("test_size", "drawing_seed", "pose")
SQUARE = "_target_:symmetry_robustness.attacks.LibraryAttack,name:Square"

A_FILE = f"checkpoint={__file__}"  # that is there: the other mistake is told

# Refused while the configuration is composed and checked: (words, what the line must name).
AT_COMPOSITION = {
    "unknown model": (["train", "model=standart"], "standart"),
    "unknown data set": (["train", "data=cifar11"], "cifar11"),
    "unknown experiment": (["train", "experiment=first_lite"], "first_lite"),
    "two objectives": (["train", "defence=trades", "objective=mart"], "objective=mart: defence=trades"),
    "two augmentations": (["train", "defence=rotation", "augmentation=crop_flip"], "augmentation=crop_flip: defence="),
    "unknown setting": (["train", "epochs=3"], "epochs"),
    "unknown model setting": (["train", "+model.widht=3"], "model.widht"),
    "unknown attack setting": (["train", "+robustness.attacks.pgd.step=3"], "robustness.attacks.pgd.step"),
    "group set to null": (["train", "robustness=null"], "robustness=none"),
    "group set to a number": (["train", "model=3"], "model=3: a group of settings takes the name of a file"),
    "setting of a tracker that was not chosen": (["train", "logger.wandb.mode=offline"], "logger=wandb"),
    "launcher set to null": (["train", "-m", "hydra.launcher=null"], "hydra/launcher=local"),
    "sweeper set to null": (["train", "-m", "hydra.sweeper=null"], "hydra/sweeper=grid"),
    "configuration of a sweep": (["train", "-m", "--cfg", "job"], "leave out -m"),
    "seed no number": (["train", "seed=one"], "seed"),
    "learning rate no number": (["train", "optimizer.lr=high"], "optimizer.lr"),
    "epochs no number": (["train", "trainer.max_epochs=many"], "trainer.max_epochs"),
    "class that does not exist": (["train", "optimizer._target_=torch.optim.Adamm"], "torch.optim.Adamm"),
    "malformed override": (["train", "model=[standard"], "model=[standard"),
    "missing value": (["train", "data.batch_size=???"], "data.batch_size"),
    "interpolation to nowhere": (["train", "data.seed=${seeed}"], "seeed"),
    "no checkpoint": (["evaluate"], "checkpoint"),
    "checkpoint that is not there": (["evaluate", "checkpoint=nothing.ckpt"], "nothing.ckpt"),
    "unknown protocol": (["evaluate", A_FILE, "robustness=quik"], "quik"),
    "evaluation of no split": (["evaluate", A_FILE, "split=tests"], "tests"),
    "report named as a path": (["evaluate", A_FILE, "name=../x"], "../x"),
    "evaluation of nothing": (["evaluate", A_FILE, "robustness=none"], "robustness=none"),
    "unknown norm": (["train", "robustness.norm=l7"], "robustness.norm"),
    "seed out of range": (["train", "seed=-1"], "-1"),
    "no epochs at all": (["train", "trainer.max_epochs=0"], "trainer.max_epochs"),
    "address that is none": (["data", "cifar10", "--root", ".", "--url", "nowhere"], "nowhere"),
    "report of nothing": (["report", "nowhere", "--output", "out"], "nowhere"),
    "report of an empty folder": (["report", ".", "--output", "out"], "no run"),
    "unknown command": (["trian"], "trian"),
    "report into a folder without a name": (["report", ".", "--output", ""], "is empty"),
    "status of a folder without a name": (["status", ""], "is empty"),
    "layer in place of an attack": (
        ["evaluate", A_FILE, "+robustness.attacks.a={_target_:torch.nn.Linear,in_features:3,out_features:3}"],
        "must take (network, images, labels, threat",
    ),
    "negative epsilon": (["train", "robustness.epsilons=[-0.1]"], "-0.1"),
    "epsilon no number": (["train", "robustness.epsilons=[wide]"], "wide"),
    "one epsilon, no list": (["train", "robustness.epsilons=8/255"], "robustness.epsilons=[8/255]"),
    "one number, no list": (["train", "robustness.epsilons=0.03"], "robustness.epsilons=[0.03]"),
    "accuracy in percent": (["train", "+robustness.expected_clean_accuracy=95"], "as 0.95"),
    "class that Hydra blocks": (["train", "~optimizer", "+optimizer={_target_:os.system,command:ls}"], "os.system"),
    "epsilons alike": (["train", "robustness.epsilons=[0.03137,8/255]"], "four digits"),
    "no steps": (["train", "robustness.attacks.pgd.steps=0"], "steps"),
    "unknown setting of a library attack": (["train", f"+robustness.attacks.square={{{SQUARE},queries:5}}"], "queries"),
    "the same in an evaluation": (["evaluate", A_FILE, f"+robustness.attacks.s={{{SQUARE},size:5}}"], "size"),
    "metric that is never logged": (["train", "checkpoint.monitor=validation/acuracy"], "validation/acuracy"),
    "share that is none": (["train", "callback.max_share_of_epoch=0"], "callback.max_share_of_epoch"),
    "more at least than at most": (["train", "callback.min_images=300"], "callback.min_images=300"),
    "output without a name": (["train", "output="], "output"),
    "run without a name": (["train", "hydra.run.dir="], "hydra.run.dir is empty"),
    "sweep without a name": (["train", "-m", "hydra.sweep.dir="], "hydra.sweep.dir is empty"),
    "run in the current directory": (["train", "hydra.run.dir=."], "hydra.run.dir=…"),
    "run in a directory that is entered": (["train", "hydra.job.chdir=true"], "leave out hydra.job.chdir"),
    "Trainer's own precision": (["train", "+trainer.precision=16"], "compute.precision"),
    "test on a part of the test set": (["train", "+trainer.limit_test_batches=1"], "data.test_size"),
    "no training at all": (["train", "+trainer.limit_train_batches=0"], "data.train_size"),
    "half of the validation": (["train", "+trainer.limit_val_batches=0.5"], "data.validation_size=0"),
    "a single step of everything": (["train", "+trainer.fast_dev_run=true"], "trainer.fast_dev_run"),
    "few batches again and again": (["train", "+trainer.overfit_batches=2"], "trainer.overfit_batches"),
    "as long as the clock says": (["train", "+trainer.max_time=00:00:01:00"], "trainer.max_time"),
    "no steps of training": (["train", "+trainer.max_steps=0"], "trainer.max_steps"),
    "metric measured after the end": (
        ["train", "checkpoint.monitor=validation/accuracy", "+trainer.check_val_every_n_epoch=20"],
        "trainer.check_val_every_n_epoch",
    ),
    "setting of no protocol": (["train", "robustness=none", "robustness.clever=null"], "robustness is null"),
    "plugins of the Trainer": (["train", "+trainer.plugins=[]"], "trainer.plugins"),
    "neither smallest nor largest": (
        ["train", "checkpoint.monitor=train/loss", "checkpoint.mode=best"],
        "checkpoint.mode",
    ),
    "checkpoint chosen by test images": (
        ["train", "checkpoint.monitor=robust/clean", "callback.split=test"],
        "callback.split=test",
    ),
    "unknown split of the callback": (["train", "callback.split=tset"], "callback.split"),
    "unknown precision": (["train", "compute.precision=13-bit"], "13-bit"),
    "no devices": (["train", "trainer.devices=0"], "trainer.devices=0"),
    "no devices, and no launcher": (["train", "hydra.launcher=null", "trainer.devices=0"], "trainer.devices=0"),
    "all processes of a CPU": (["train", "trainer=ddp_cpu", "trainer.devices=-1"], "trainer.devices=-1"),
    "project that W&B refuses": (["train", "logger=wandb", "logger.wandb.project=a/b"], "logger.wandb.project"),
    "mode that W&B does not have": (["train", "logger=wandb", "logger.wandb.mode=foo"], "logger.wandb.mode"),
    "neither resumed nor not": (["train", "resume=maybe"], "resume"),
    "misspelled group": (["train", "modle=standard"], "did you mean model?"),
    "misspelled group, added": (["train", "+modle=standard"], "did you mean model?"),
    "misspelled group, removed": (["train", "~modle"], "did you mean model?"),
    "setting of a misspelled group": (["train", "optmizer.lr=1"], "did you mean optimizer?"),
    "misspelled setting": (["train", "trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
    "misspelled setting of a typed node": (["train", "callback.num_image=3"], "did you mean callback.num_images?"),
    "the same, added": (["train", "+callback.num_image=3"], "did you mean callback.num_images?"),
    "misspelled attack": (["train", "robustness.attacks.pdg.steps=3"], "did you mean robustness.attacks.pgd?"),
    "misspelled setting of Hydra": (["train", "hydra.run.dirr=x"], "did you mean hydra.run.dir?"),
    "setting like no other": (["train", "lr=0.1"], "choose from"),
    "setting that the configuration leaves out": (["train", "robustness.bounds=[0,1]"], "+robustness.bounds=[0,1]"),
    "no name": (["train", "=3"], "write SETTING=VALUE"),
    "comma at the end": (["train", "seed=0,"], "seed=0,: mismatched input"),
    "list that does not end": (["train", "robustness.epsilons=[1,2"], "robustness.epsilons=[1,2"),
    "sign that needs quotes": (["train", "name=ü"], "quoted"),
    "several values without a sweep": (["train", "seed=1,2"], "--multirun"),
    "misspelled in a sweep": (["train", "-m", "model=standard,cascadedd"], "cascadedd"),
    "no number in a sweep": (["train", "-m", "seed=nan,0", "hydra.sweep.dir=sweep"], "seed=nan"),
    "empty range of a sweep": (["train", "-m", "seed=range(0,0)"], "no jobs"),
    "choice for a place of its own": (
        ["evaluate", A_FILE, "robustness=clean", "attack@robustness.attacks.b=fgsm"],
        "write +attack@robustness.attacks.b=fgsm",
    ),
    "the same beside others": (
        ["train", "attack@robustness.attacks.b=fgsm"],
        "write +attack@robustness.attacks.b=fgsm",
    ),
    "setting of a class that has none": (
        ["train", "objective._target_=builtins.object"],
        "it takes no settings",
    ),
    "group of another command": (["evaluate", A_FILE, "model=standard"], "has no such group"),
    "setting of another command": (["evaluate", A_FILE, "callback.num_images=3"], "callback"),
    "setting of the checkpoint's data": (["evaluate", A_FILE, "data.root=x"], "write +data.root=x"),
    "misspelled checkpoint": (["evaluate", "chekpoint=x"], "did you mean checkpoint?"),
    "report named as the folder above": (["evaluate", A_FILE, "name=.."], "name=.."),
    "attack named as another number": (
        ["evaluate", A_FILE, "+robustness.attacks.worst_case={_target_:symmetry_robustness.attacks.PGD}"],
        "'worst_case' cannot name an attack",
    ),
    "number of images in words": (["evaluate", A_FILE, "num_images=all"], "num_images"),
    "evaluation on no known device": (["evaluate", A_FILE, "accelerator=tpu"], "accelerator"),
    "data that fill the memory": (["train", "data.validation_size=999999999"], "data.validation_size"),
    "negative seed of the data": (["train", "data.seed=-1"], "data.seed"),
    "batch of nothing": (["train", "data.batch_size=0"], "data.batch_size"),
    "no images to attack": (["train", "callback.num_images=0"], "callback.num_images"),
    "negative learning rate": (["train", "optimizer.lr=-1"], "-1"),
    "learning rate that is none": (["train", "optimizer.lr=nan"], "nan"),
    "learning rate that trains nothing": (["train", "optimizer.lr=0"], "optimizer.lr=0"),
    "schedule without a period": (["train", "scheduler=step", "scheduler.step_size=0"], "StepLR"),
    "schedule without an end": (["train", "scheduler=cosine", "scheduler.T_max=0"], "CosineAnnealingLR"),
    "loss in place of an objective": (["train", "objective._target_=torch.nn.CrossEntropyLoss"], "must take"),
    "training attack beyond all pixels": (["train", "objective=clean_and_fgsm", "objective.epsilon=8"], "epsilon"),
    "data module that is none": (
        ["train", "data._target_=pytorch_lightning.LightningDataModule", *(f"~data.{name}" for name in SHAPES)],
        "ImageDataModule",
    ),
    "ranks that nobody starts": (["train", "+trainer.num_nodes=2"], "trainer.num_nodes=2"),
    "device of no known kind": (["train", "trainer.accelerator=tpu"], "trainer.accelerator"),
    "gradients of no batch": (["train", "+trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches"),
    "validation after no epoch": (["train", "+trainer.check_val_every_n_epoch=0"], "check_val_every_n_epoch"),
    "setting of no Trainer": (["train", "+trainer.max_epoch=3"], "did you mean 'max_epochs'?"),
}

# Refused by the job, which knows the classes: each a run of its own.
IN_THE_JOB = {
    "missing data": (["data=cifar10", "data.root=nowhere"], "symrob data cifar10"),
    "batch of one image": (["model=standard", "data.train_size=65", "data.batch_size=64"], "data.batch_size=63 or 65"),
    "batches of one image": (["model=standard", "data.batch_size=1"], "data.batch_size=2"),
    "too large a validation split": (["data=shapes", "callback.num_images=100000"], "100000"),
    "pool too many": (["model.trunk=[pool,pool,pool,pool,pool,pool,8]"], "pools"),
    "unknown group": (["model=parallel_rotation", "model.stem.branches.rotation.group=X4"], "X4"),
    "loss that is not finite": (["optimizer.lr=1e30", "compute.precision=32-true"], "optimizer.lr"),
    "too many images to attack": (["callback.final_num_images=100000"], "100000"),
    "other number of classes": (["model.num_classes=7"], "model.num_classes"),
    "objective without logits": (
        ["objective._target_=only_loss.OnlyLoss", "~objective.label_smoothing"],
        "return a pair",
    ),
}
# A model of the user's own, refused before its training: the body of its forward, and what the line must name.
OWN_NETWORKS = {
    "tuple in training": ("return (y, x) if self.training else y", "got a tuple of 2 in training mode"),
    "other number of classes": ("return y[:, :7]", "has 7 classes, the data set 10"),
    "lazy layer": ("return y\nOwn = lambda: torch.nn.LazyLinear(10)", "lazy layers without weights"),
    "mistake": ("return y[3, 99]", "own_network.py, line 11, in forward: IndexError"),
    "end of Python": ("raise SystemExit(0)", "own_network.py, line 11, in forward: ends the program with status 0"),
    "no gradient": ("return y.detach()", "a loss without gradient"),
}
OWN_NETWORK = """
import torch
class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 10)

    def forward(self, x):
        y = self.linear(x.mean((2, 3)))

        {body}
"""
ONLY_LOSS = """
from dataclasses import dataclass
from torch.nn import functional
@dataclass(frozen=True)
class OnlyLoss:
    def __call__(self, network, images, labels):
        return functional.cross_entropy(network(images), labels)
"""
SMALL = [
    "model=standard_4layer",
    "data.train_size=64",
    "data.validation_size=32",
    "data.test_size=32",
    "trainer.max_epochs=1",
    "callback.num_images=8",
    "callback.final_num_images=8",
    "robustness.clever=null",
]


def one_line(text: str) -> str:
    """The single line that a mistake may print."""
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize(("words", "named"), AT_COMPOSITION.values(), ids=AT_COMPOSITION.keys())
def test_refused_at_composition(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["symrob"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert cli.main(words) == 2
    assert named in one_line(capfd.readouterr().err)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.parametrize("content", [b"a: [1\nb: }", b"_target_:\tx\n\ty: 1", b"a: 1\na: 2", b"\xff\xfe\x00", b"!x 3"])
def test_a_file_of_settings_that_cannot_be_read_is_named(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine" / "model" / "own.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["symrob"])
    assert cli.main(["train", "--config-dir", "mine", "model=own"]) == 2
    assert f"error: {path.resolve()} cannot be read (" in one_line(capfd.readouterr().err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("words", [[], ["-m"], ["-m", "hydra/launcher=parallel"]], ids=["single", "local", "parallel"])
def test_a_gpu_that_is_not_there_is_refused_where_jobs_run_here(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    test_refused_at_composition(["train", *words, "trainer=gpu"], "trainer.accelerator", tmp_path, monkeypatch, capfd)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_may_be_elsewhere() -> None:
    config = load_config("train", ["trainer=slurm"])
    check_devices(config.trainer, here=False)
    with pytest.raises(UserError, match=r"trainer\.accelerator=gpu"):
        check_devices(config.trainer, here=True)


@pytest.mark.parametrize("devices", ["1", "'2'", "auto", "[0,1]", "-1"])
def test_numbers_of_gpus_are_left_to_the_machine_that_has_them(devices: str) -> None:
    check_devices(load_config("train", ["trainer=slurm", f"trainer.devices={devices}"]).trainer, here=False)


@pytest.mark.parametrize(("words", "named"), IN_THE_JOB.values(), ids=IN_THE_JOB.keys())
def test_refused_by_the_job(words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_loss.py").write_text(ONLY_LOSS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    small = [word for word in SMALL if "data=cifar10" not in words or not word.startswith("data.")]
    done = symrob("train", *small, *words, "hydra.run.dir=run", directory=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stdout + done.stderr
    assert named in one_line(done.stderr)
    assert not list(tmp_path.rglob("*.tmp"))
    run = tmp_path / "run"
    if "optimizer.lr=1e30" in words:  # noticed after a step
        assert '"failed"' in (run / "summary.json").read_text()
    else:
        assert not run.exists()


@pytest.mark.parametrize(("body", "named"), OWN_NETWORKS.values(), ids=OWN_NETWORKS.keys())
def test_a_network_of_the_user_s_that_cannot_be_trained_is_refused(
    body: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network.py").write_text(OWN_NETWORK.format(body=body))
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "own.yaml").write_text("_target_: own_network.Own\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    words = ["--config-dir", "conf", "model=own", *SMALL[1:-3], "robustness=none", "hydra.run.dir=run"]
    done = symrob("train", *words, directory=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stdout + done.stderr
    assert named in one_line(done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_a_refused_training_does_not_block_the_corrected_one(resume: str, tmp_path: Path) -> None:
    words = ["train", *SMALL, "hydra.run.dir=run", "robustness=clean", f"resume={resume}"]
    words.remove("robustness.clever=null")
    done = symrob(*words, "callback.num_images=33", directory=tmp_path)
    assert (done.returncode, "callback.num_images=33" in done.stderr) == (2, True), done.stderr
    done = symrob(*words, directory=tmp_path)
    assert done.returncode == 0, done.stderr


def saved_checkpoint(path: Path, **data: object) -> Path:
    """A checkpoint of an untrained network, with a data node of its own if one is given."""
    config = load_config("train", ["model=standard_4layer", "data.test_size=40"])
    state = {f"network.{name}": value for name, value in build_network(config).state_dict().items()}
    content = OmegaConf.to_container(config)
    assert isinstance(content, dict)
    torch.save(
        {"config": OmegaConf.to_yaml({**content, **({"data": data} if data else {})}), "state_dict": state}, path
    )
    return path


@pytest.mark.parametrize(
    "data", [{"_target_": "pathlib.Path.touch", "self": "harm"}, {"_target_": "os.system"}, {"root": "${oc.env:HOME}"}]
)
def test_a_checkpoint_that_names_foreign_classes_is_not_evaluated(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shapes = {"_target_": "symmetry_robustness.data.ShapesDataModule"}
    checkpoint = saved_checkpoint(tmp_path / "last.ckpt", **{**shapes, **data})
    monkeypatch.setattr(sys, "argv", ["symrob"])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", f"checkpoint={checkpoint}"]) == 2
    assert "do not trust the file" in one_line(capfd.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_and_shows_in_the_exit_status(number: signal.Signals, tmp_path: Path) -> None:
    words = ["train", *SMALL, "trainer.max_epochs=100000", "robustness=none", "hydra.run.dir=run"]
    process = fork_server.Popen(
        [sys.executable, "-m", "symmetry_robustness.app.cli", *(w for w in words if not w.startswith("robustness."))],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: (tmp_path / "run" / "checkpoints" / "last.ckpt").exists())
    process.send_signal(number)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + number, output + errors
    assert "Traceback" not in errors
    assert '"interrupted"' in (tmp_path / "run" / "summary.json").read_text()
    size = (tmp_path / "run" / "metrics.csv").stat().st_size
    time.sleep(0.5)  # time for some epochs
    assert (tmp_path / "run" / "metrics.csv").stat().st_size == size  # nothing goes on


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    done = symrob("train", *SMALL, f"output={tmp_path / 'file'}", directory=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert str(tmp_path / "file") in one_line(done.stderr)


@pytest.mark.parametrize("damage", ["not a checkpoint", "truncated", "another program's"])
def test_a_checkpoint_that_is_none(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"weights": torch.zeros(100)}, path)
    if damage == "not a checkpoint":
        path.write_text("hello")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    monkeypatch.setattr(sys, "argv", ["symrob"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert cli.main(["evaluate", f"checkpoint={path}", "data=shapes", f"output={tmp_path}"]) == 2
    assert "last.ckpt" in one_line(capfd.readouterr().err)
