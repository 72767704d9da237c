"""Settings that are refused before a run starts."""

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from torch import nn

from symmetry_robustness import load_config
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.settings import (
    check_batches,
    check_monitor,
    check_objects,
    check_settings,
    monitor_interval,
)
from symmetry_robustness.runs.train import best_checkpoint, robustness_callback
from symmetry_robustness.training import Classifier, CleanAndFGSM, CrossEntropy, Objective

SHAPE = (3, 8, 8)


def classifier(objective: Objective = CrossEntropy()) -> Classifier:  # noqa: B008
    network = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return Classifier(network, objective, torch.optim.Adam, num_classes=2, test_names=["test"])


@pytest.mark.parametrize(
    ("images", "batch_size", "ranks", "remedy"),
    [
        (65, 64, 1, "data.batch_size=63 or 65, or data.train_size=64"),
        (10, 1, 1, "data.batch_size=2 or 4"),
        (8, 2, 2, "data.batch_size=4 or 7"),
        (66, 64, 2, "data.batch_size=62 or 65, or data.train_size=65"),
        (67, 64, 2, "data.batch_size=62 or 63, or data.train_size=65"),
    ],
)
def test_a_batch_of_one_image_names_the_nearest_sizes_that_work(
    images: int, batch_size: int, ranks: int, remedy: str
) -> None:
    with pytest.raises(UserError, match=f"choose {remedy}$"):
        check_batches(classifier(), SHAPE, images, batch_size, ranks)


@pytest.mark.parametrize(("images", "batch_size", "ranks"), [(64, 64, 1), (66, 64, 1), (65, 64, 2), (68, 64, 2)])
def test_other_batches_are_trained_on(images: int, batch_size: int, ranks: int) -> None:
    check_batches(classifier(), SHAPE, images, batch_size, ranks)


def test_an_objective_that_doubles_the_batch_takes_one_image_and_nothing_is_changed() -> None:
    trained = classifier(CleanAndFGSM())
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    state = torch.get_rng_state()
    check_batches(trained, SHAPE, 65, 64, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def configured(*words: str) -> DictConfig:
    return load_config("train", ["robustness.clever=null", *words])


def test_a_monitor_that_is_measured_every_other_epoch_chooses_among_those_epochs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = configured("checkpoint.monitor=validation/accuracy", "+trainer.check_val_every_n_epoch=2")
    callback = robustness_callback(config)
    check_monitor(config, callback)
    assert monitor_interval(config, callback) == (2, "trainer.check_val_every_n_epoch")
    (best,) = best_checkpoint(config, tmp_path, callback)
    assert best._every_n_epochs == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "words",
    [
        ["checkpoint.monitor=validation/loss", "+trainer.check_val_every_n_epoch=11"],
        ["checkpoint.monitor=validation/loss", "+trainer.check_val_every_n_epoch=null"],
        ["checkpoint.monitor=robust/clean", "callback.every_n_epochs=11"],
    ],
)
def test_a_monitor_that_is_never_measured_is_refused(words: list[str]) -> None:
    config = configured(*words)
    with pytest.raises(UserError, match=r"checkpoint\.monitor"):
        check_monitor(config, robustness_callback(config))


COMPILED = "compute.compile=true"
RANKS = "trainer=ddp_cpu"


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["objective=jacobian", COMPILED], True),
        (["objective=curvature", COMPILED], True),
        (["objective=input_gradient", COMPILED], False),
        (["objective=input_gradient", "objective.method=double_backward", RANKS], True),
        (["objective=gradalign", RANKS], True),
        (["objective=gradalign", RANKS, "trainer.sync_batchnorm=false"], False),
        (["objective=gradalign", RANKS, "objective.crafted_in=evaluation"], False),
        (["objective=jacobian", "objective.strength=0", RANKS], False),
        (["objective=curvature", RANKS], False),
        (["objective=trades", RANKS], False),
        (["objective=j_sigr", RANKS], True),
        (["objective=attribution_guided", COMPILED], True),
        (["objective=attribution_guided", "objective.gradient_strength=0", COMPILED], False),
        (["objective=awp", "objective@objective.around=jacobian", COMPILED], True),
        (["objective=awp", COMPILED], False),
    ],
)
def test_what_cannot_be_differentiated_twice_is_refused(words: list[str], refused: bool) -> None:
    config = configured(*words)
    if not refused:
        return check_objects(config)
    with pytest.raises(UserError, match="differentiates gradients"):
        check_objects(config)
    return None


@pytest.mark.parametrize("objective", ["hsic_bottleneck", "metric_learning"])
def test_layers_of_a_compiled_network_are_not_read(objective: str) -> None:
    check_objects(configured(f"objective={objective}"))
    check_objects(configured(f"objective={objective}", RANKS))
    for words in ([f"objective={objective}"], ["objective=awp", f"objective@objective.around={objective}"]):
        with pytest.raises(UserError, match="reads layers"):
            check_objects(configured(*words, COMPILED))


@pytest.mark.parametrize(("name", "refused"), [("free_at", True), ("learn_from_past", True), ("awp", False)])
def test_an_objective_with_updates_of_its_own_wants_a_step_for_each_batch(name: str, refused: bool) -> None:
    check_objects(configured(f"objective={name}"))
    config = configured(f"objective={name}", "+trainer.accumulate_grad_batches=2")
    if not refused:
        return check_objects(config)
    with pytest.raises(UserError, match=r"trainer\.accumulate_grad_batches=2 leaves no step to each batch"):
        check_objects(config)
    return None


@pytest.mark.parametrize(
    "words", [["objective=adaptive_features"], ["objective=awp", "objective@objective.around=adaptive_features"]]
)
def test_a_network_that_an_objective_cannot_train_is_refused(words: list[str]) -> None:
    check_objects(configured(*words, "model=adaptive_4layer"))
    with pytest.raises(UserError, match="needs norms of two kinds"):
        check_objects(configured(*words, "model=standard_4layer"))


@pytest.mark.parametrize(
    "words", [["objective=awp", "objective.around=null"], ["objective=augmix", "objective.augmentation=null"]]
)
def test_an_objective_without_what_it_is_made_of_is_refused(words: list[str]) -> None:
    with pytest.raises(InstantiationException) as caught:
        check_objects(configured(*words))
    assert isinstance(caught.value.__cause__, UserError)


def test_a_training_without_an_end_is_refused() -> None:
    check_settings(configured("trainer.max_epochs=null", "+trainer.max_steps=5"), here=True)
    for words in ([], ["+trainer.max_steps=-1"]):
        with pytest.raises(UserError, match=r"trainer\.max_epochs=null sets no end"):
            check_settings(configured("trainer.max_epochs=null", *words), here=True)
