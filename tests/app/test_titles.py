"""Networks have titles for readers, beside their configuration."""

import pytest
from hydra import compose, initialize_config_dir

from symmetry_robustness import load_config
from symmetry_robustness.app.config import config_directory, finalize_config
from symmetry_robustness.app.schema import register_schemas
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import config_hash, first_difference

from .composed import EVERY_OPTION, composed, options


def test_every_network_has_a_title_of_its_own() -> None:
    configs = [composed(*overrides) for overrides in EVERY_OPTION]
    assert {config.name for config in configs} == {*options("model")}
    titles = {config.title for config in configs}
    assert len(titles) == len(options("model"))
    assert "" not in titles
    assert all("title" not in config.model for config in configs)  # no setting of the network


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ([], "parallel, scale"),
        (["model/branch=scale_equivariant"], "parallel, scale, scale equivariant"),
        (["name=mine"], ""),  # a name of one's own says more than the network's title
        (["name=mine", "title=my network"], "my network"),
    ],
)
def test_a_title_can_be_chosen_and_decides_no_result(overrides: list[str], title: str) -> None:
    config = load_config("train", ["model=parallel_scale", *overrides])
    assert config.title == title
    other = config.copy()
    other.title = "other"
    assert config_hash(config) == config_hash(other)
    assert first_difference(config, other) is None


def test_a_network_derived_from_another_does_not_go_by_its_title() -> None:
    register_schemas()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("train", ["model=standard"])
    mine = finalize_config(config, {"model": "mine", "experiment": "none"})  # as of a file that begins with standard
    assert (mine.name, mine.title, "title" in mine.model) == ("mine", "", False)


def test_a_title_that_stands_alone_is_refused() -> None:
    register_schemas()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("train", ["model=standard", "~model.title", "+model.title=Mine"])
    with pytest.raises(UserError, match=r"model\.title=Mine must stand .*title: \{mine: Mine\}"):
        finalize_config(config, {"model": "mine", "experiment": "none"})
