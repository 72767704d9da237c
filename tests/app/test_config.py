from pathlib import Path

import pytest
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from symmetry_robustness import load_config
from symmetry_robustness.app.config import config_directory
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.exit_status import user_message

from .composed import EVERY_OPTION, TRANSFER, composed, options


@pytest.mark.parametrize("overrides", EVERY_OPTION, ids=" ".join)
def test_every_option_composes_and_passes_the_checks(overrides: tuple[str, ...]) -> None:
    config = composed(*overrides)
    assert not OmegaConf.missing_keys(config)


@pytest.mark.parametrize("option", TRANSFER)
def test_transfer_from_other_networks_is_no_protocol_of_a_training(option: str) -> None:
    with pytest.raises(Exception, match="evaluate the checkpoint with robustness=transfer"):
        load_config("train", [f"robustness={option}"])


@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_every_scheduler_drives_every_optimizer(scheduler: str) -> None:
    import torch

    from symmetry_robustness.training.schedules import drive

    for optimizer in options("optimizer"):
        config = load_config("train", [f"optimizer={optimizer}", f"scheduler={scheduler}"])
        made = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        if config.scheduler:
            schedule = drive(instantiate(config.scheduler), made, lambda: 100)["scheduler"]
            assert schedule.base_lrs == [config.optimizer.lr]
            assert schedule.get_last_lr() == [0 if scheduler == "cyclic" else config.optimizer.lr]


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_for_each_of_its_models(experiment: str) -> None:
    sweep = OmegaConf.load(config_directory() / "experiment" / f"{experiment}.yaml")
    models = OmegaConf.select(sweep, "hydra.sweeper.params.model", default="standard").split(",")
    for model in models:
        config = composed(f"experiment={experiment}", f"model={model}")
        assert (config.name, config.group) == (model, experiment)
        assert config.model.num_classes == config.data.num_classes


@pytest.mark.parametrize(
    ("model", "epochs", "batch_size", "step_size"),
    [
        ("standard", 200, 128, None),
        ("parallel_rotation", 200, 128, 50),
        ("parallel_scale", 200, 128, None),
        ("parallel_rotation_scale", 200, 128, None),
        ("cascaded", 200, 128, 50),
        ("weighted", 200, 128, 50),
        ("fully_equivariant", 50, 64, None),
        ("standard_matched", 200, 128, None),
        ("cascaded_4layer", 200, 128, 50),
        ("fully_equivariant_4layer", 50, 64, None),
        ("roto_scale", 50, 64, None),
        ("roto_scale_matched", 200, 128, None),
    ],
)
def test_the_paper_s_training_is_as_released(model: str, epochs: int, batch_size: int, step_size: int | None) -> None:
    for experiment in ("paper_cifar10", "paper_cifar100", "paper_cifar10c"):
        config = composed(f"experiment={experiment}", f"model={model}")
        assert (config.trainer.max_epochs, config.data.batch_size) == (epochs, batch_size)
        assert config.scheduler.get("step_size") == step_size
        assert config.data.validation_size == 0
        assert config.optimizer.lr == 1e-3


def test_an_experiment_may_be_refined_by_another() -> None:
    config = load_config("train", ["experiment=paper_cifar100", "model=cascaded"])
    assert config.data.num_classes == 100
    assert config.scheduler.step_size == 50
    assert load_config("train", ["experiment=paper_cifar100", "model=standard"]).scheduler == {}


def test_a_branch_that_is_not_the_paper_s_names_the_run() -> None:
    assert load_config("train", ["model=parallel_scale"]).name == "parallel_scale"
    config = load_config("train", ["model=parallel_scale", "model/branch=scale_equivariant"])
    assert config.name == "parallel_scale_scale_equivariant"
    assert load_config("train", ["model=parallel_scale", "model/branch=scale_equivariant", "name=x"]).name == "x"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model/branch=scale_equivariant", "model/branch"),
        ("model=standart", "standart"),
        ("modle=standard", "modle"),
        ("seed=abc", "abc"),
        ("model.trunkk=[32]", "trunkk"),
        ("+model.trunkk=[32]", "model.trunkk"),
        ("+optimizer.learning_rate=1", "optimizer.learning_rate"),
        ("optimizer.lr=fast", "fast"),
        ("trainer.max_epochs=many", "many"),
        ("+trainer.max_epoch=1", "max_epochs"),
        ("data._target_=symmetry_robustness.data.Nothing", "Nothing"),
        ("callback.num_images=lots", "lots"),
        ("robustness.epsilons=wide", "wide"),
        ("data=null", "none"),
        ("data.root=???", "data.root"),
    ],
)
def test_a_typing_error_is_named_at_composition(override: str, named: str) -> None:
    with pytest.raises((UserError, HydraException, ValueError)) as caught:
        load_config("train", [override])
    line = user_message(caught.value)
    assert line is not None
    assert named in line
    assert "\n" not in line


LINF = "measures.certified_linf.images"


@pytest.mark.parametrize(
    ("app", "overrides", "path", "value"),
    [
        ("evaluate", ["robustness=smoothing", "robustness.measures.smoothing.n=1e4"], "measures.smoothing.n", 10000),
        ("evaluate", ["robustness=certified", f"robustness.{LINF}=2.0"], LINF, 2),
        ("train", ["robustness=quick", "robustness.batch_size=4.0"], "batch_size", 4),
        ("train", ["robustness=quick", "robustness.clever.num_batches=2.0"], "clever.num_batches", 2),
        ("train", ["robustness=quick", "robustness.clever_images='8'"], "clever_images", 8),
        ("train", ["robustness=quick", "robustness.attacks.pgd.steps=2.0"], "attacks.pgd.steps", 2),
    ],
)
def test_whole_numbers_may_be_written_as_floats(app: str, overrides: list[str], path: str, value: int) -> None:
    own = ["checkpoint=last.ckpt"] if app == "evaluate" else []
    found = OmegaConf.select(load_config(app, [*own, *overrides]), f"robustness.{path}")
    assert (found, type(found)) == (value, type(value))
    setting = overrides[-1].partition("=")[0]
    with pytest.raises(UserError, match=rf"^{setting} = 2\.5: .*valid integer") as raised:
        load_config(app, [*own, *overrides[:-1], f"{setting}=2.5"])
    assert "\n" not in str(raised.value)


def test_other_values_are_left_as_they_are_written() -> None:
    epsilons = load_config("train", ["robustness=quick", "robustness.epsilons=[1/255,0.5]"]).robustness.epsilons
    assert epsilons == ["1/255", 0.5]
    assert load_config("train", ["optimizer.lr=1"]).optimizer.lr == 1


def test_an_unknown_app_is_refused() -> None:
    with pytest.raises(UserError, match="app must be"):
        load_config("trian")


def test_the_configuration_stands_beside_the_package() -> None:
    assert config_directory() == Path(__file__).parents[2] / "conf"
