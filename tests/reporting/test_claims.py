"""The claims file says what the paper says, and no verdict is given that the runs do not bear out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from symmetry_robustness import load_config
from symmetry_robustness.app.config import config_directory
from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.aggregate import summarize
from symmetry_robustness.reporting.claims import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    ONLY_RELEASED,
    Claim,
    Claims,
    Outcome,
    claims_table,
    judge_claims,
    load_claims,
)
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import find_runs
from symmetry_robustness.results.names import SAME_AS, is_released, protocol_name

from .made import CIFAR, make_report, make_run

SETTINGS = {
    name: instantiate(load_config("evaluate", [f"robustness={name}", "checkpoint=unused"]).robustness).describe()
    for name in (path.stem for path in (config_directory() / "robustness").glob("*.yaml"))
    if name not in ("none", "transfer", "transfer_tuned")  # which need checkpoints
}
CLAIMS = load_claims()
GRID = tuple(SETTINGS["paper"]["epsilons"])
VALUE = {"id": "a", "kind": "value", "measure": "robust_accuracy", "source": "", "data": "cifar10", "tolerance": 0.005}
VALUE |= {"network": "standard", "attack": "pgd", "epsilon": 0.005, "released": "released_cascaded", "value": 0.3}
MORE = VALUE | {"kind": "comparison", "network": "cascaded", "than": "standard", "value": 0.2, "tolerance": 0.01}
MORE |= {"released_than": "released_standard"}


def write(
    directory: Path, protocol: str, shares: list[float], network: str = "standard", count: int = 2000, **config: Any
) -> None:
    """One run for each seed, of which a share of the images withstands every attack; it is the first images that do."""
    for seed, share in enumerate(shares):
        standing = np.where(np.arange(count) < round(share * count), np.inf, 0.0)
        report = make_report({"fgsm": standing, "pgd": standing}, epsilons=GRID, settings=SETTINGS[protocol])
        make_run(directory / f"{network}-{protocol}-{seed}", report, name=network, seed=seed, config=config)


def judge(directory: Path, copies: Mapping[str, Sequence[str]] | None = None, **claim: Any) -> Outcome:
    runs, problems = find_runs([directory])
    assert problems == []
    training, shorter = {"trainer.max_epochs": 200}, {"shortened training": {"trainer.max_epochs": 100}}
    claims = Claims(3, 0.05, training, "paper", [Claim(**claim)], copies or {}, shorter)
    (outcome,) = judge_claims(claims, summarize(frame_of(runs), runs), runs)
    return outcome


def test_protocols_are_known_by_their_settings() -> None:
    released = {name for name in SETTINGS if name.startswith("released_")}
    assert {name for name, settings in SETTINGS.items() if is_released(settings)} == released
    for name in ("paper", *released - {"released_fully_equivariant"}):
        assert protocol_name(SETTINGS[name]) == SAME_AS.get(name, name)
    for name in ("quick", "strong", "symmetry", "clever", "released_fully_equivariant"):
        assert protocol_name(SETTINGS[name]) == ""


def test_the_file_holds_every_number() -> None:
    count = Counter((claim.kind, claim.measure, claim.data, "4layer" in claim.network) for claim in CLAIMS.claims)
    assert count["value", "robust_accuracy", "cifar100", False] == 4 * 8
    assert count["value", "robust_accuracy", "cifar10", False] == 5 * 13
    assert count["value", "robust_accuracy", "cifar10", True] == 5 * 6
    assert count["exact", "parameters", "cifar10", False] == 6
    assert count["example", "removal", "cifar10", False] == 2
    by_id = {claim.id: claim for claim in CLAIMS.claims}
    assert by_id["cifar100_parallel_rotation_scale_pgd_0.03"].value == 0.1099
    assert by_id["cifar10_weighted_4layer_fgsm_0.10"].value == 0.015
    assert CLAIMS.sound in SETTINGS


@pytest.mark.parametrize("claim", CLAIMS.claims, ids=lambda claim: claim.id)
def test_each_claim_is_consistent(claim: Claim) -> None:
    for network in (claim.network, claim.than or claim.network):
        assert (config_directory() / "model" / f"{network}.yaml").is_file()
    assert (config_directory() / "data" / f"{claim.data}.yaml").is_file()
    if claim.measure != "robust_accuracy":
        return
    assert is_released(SETTINGS[claim.released])
    assert claim.epsilon == pytest.approx(claim.published_epsilon / 2)
    assert claim.epsilon in GRID
    assert 0 <= claim.value < 1
    ids = [
        f"{claim.data}_{network}_{claim.attack}_{claim.published_epsilon:.2f}"
        for network in (claim.network, claim.than)
    ]
    if claim.than:
        first, second = (other.value for name in ids for other in CLAIMS.claims if other.id == name)
        assert claim.value == pytest.approx(first - second)
        assert claim.id == f"{claim.data}_{claim.network}_over_{ids[1].removeprefix(claim.data + '_')}"
    else:
        assert claim.id == ids[0]


SOUND, RELEASED = [0.29, 0.31, 0.302], [0.1, 0.11, 0.105]


@pytest.mark.parametrize(
    ("sound", "released", "verdict"),
    [
        (SOUND, RELEASED, HOLDS),
        (RELEASED, SOUND, ONLY_RELEASED),
        (RELEASED, RELEASED, FAILS),
        (SOUND[:2], SOUND, "not measured (protocol paper: 2 of 3 seeds)"),
        (RELEASED, SOUND[:1], "not measured (protocol released_cascaded: 1 of 3 seeds)"),
        (RELEASED, [], "not measured (protocol released_cascaded: no run)"),
        ([], SOUND, "not measured (protocol paper: no run)"),
        ([0.2, 0.3, 0.4], SOUND, "not measured (protocol paper: the interval is too wide, [4.9, 55.1] %)"),
    ],
)
def test_a_value_is_judged_under_both_protocols(
    sound: list[float], released: list[float], verdict: str, tmp_path: Path
) -> None:
    write(tmp_path, "quick", [0.5])
    write(tmp_path, "paper", sound)
    write(tmp_path, "released_standard", released)
    outcome = judge(tmp_path, **VALUE)
    reason = f" ({outcome.reason})" if outcome.reason else ""
    assert outcome.verdict + reason == verdict


@pytest.mark.parametrize(
    ("sound", "released", "verdict"),
    [
        ([0.50, 0.52, 0.51], SOUND, HOLDS),
        ([0.2, 0.21, 0.2], [0.5, 0.52, 0.51], ONLY_RELEASED),
        ([0.2, 0.21, 0.2], SOUND, FAILS),
        (SOUND, SOUND, FAILS),
        ([0.25, 0.4, 0.33], SOUND, NOT_MEASURED),
        ([0.50, 0.52], SOUND, NOT_MEASURED),
    ],
)
def test_a_comparison_needs_the_interval_of_the_difference(
    sound: list[float], released: list[float], verdict: str, tmp_path: Path
) -> None:
    for protocol, shares in (("paper", sound), ("released_standard", released)):
        write(tmp_path, protocol, SOUND)
        write(tmp_path, protocol, shares, "cascaded")
    assert judge(tmp_path, **MORE).verdict == verdict


def test_networks_are_compared_each_under_its_own_script(tmp_path: Path) -> None:
    for protocol, network, shares in (
        ("paper", "standard", SOUND),
        ("paper", "cascaded", SOUND),
        ("released_standard", "standard", SOUND),
        ("released_rotation_scale", "cascaded", [0.5, 0.52, 0.51]),
    ):
        write(tmp_path, protocol, shares, network)
    outcome = judge(tmp_path, **MORE | {"released": "released_rotation_scale"})
    assert (outcome.verdict, outcome.released.seeds) == (ONLY_RELEASED, 3)
    assert outcome.released.value == pytest.approx(0.51 - np.mean(SOUND), abs=1e-3)


def test_every_claim_of_the_file_names_the_scripts_of_its_networks() -> None:
    attacked = [claim for claim in CLAIMS.claims if claim.measure == "robust_accuracy"]
    assert all(claim.released and bool(claim.released_than) == bool(claim.than) for claim in attacked)


def test_runs_that_were_trained_otherwise_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, "paper", SOUND, trainer={"max_epochs": 3})
    assert judge(tmp_path, **VALUE).reason == "protocol paper: no run"


@pytest.mark.parametrize(
    ("full", "shortened", "verdict"),
    [
        ([], SOUND, "holds (shortened training)"),
        (SOUND[:2], SOUND, "holds (shortened training)"),
        (SOUND, SOUND, "holds"),
        ([0.2, 0.3, 0.4], SOUND, "not measured (protocol paper: the interval is too wide, [4.9, 55.1] %)"),
        (SOUND[:2], SOUND[:2], "not measured (protocol paper: 2 of 3 seeds)"),
        ([], SOUND[:1], "not measured (protocol paper: 1 of 3 seeds; shortened training)"),
    ],
)
def test_a_shortened_training_counts_only_where_it_has_more_of_the_seeds(
    full: list[float], shortened: list[float], verdict: str, tmp_path: Path
) -> None:
    write(tmp_path / "full", "paper", full)
    write(tmp_path / "shortened", "paper", shortened, trainer={"max_epochs": 100})
    write(tmp_path / "short", "paper", SOUND, trainer={"max_epochs": 3})
    sheet = claims_table([judge(tmp_path, **VALUE)])
    assert sheet.tables[0].rows[0][5].text == verdict
    assert sheet.rows["training"].tolist() == ["shortened training" if "shortened" in verdict else ""]


def test_a_comparison_does_not_mix_trainings(tmp_path: Path) -> None:
    write(tmp_path / "full", "paper", SOUND)
    write(tmp_path / "shortened", "paper", [0.5, 0.52, 0.51], "cascaded", trainer={"max_epochs": 100})
    assert judge(tmp_path, **MORE).reason == "protocol paper: no run"
    write(tmp_path / "both", "paper", SOUND, trainer={"max_epochs": 100})
    outcome = judge(tmp_path, **MORE)
    assert (outcome.verdict, outcome.training) == (HOLDS, "shortened training")


def test_a_copy_counts_where_the_file_says_so_and_its_row_names_it(tmp_path: Path) -> None:
    copy = "cifar10 (all but 2 images exact)"
    write(tmp_path, "paper", SOUND, data={**CIFAR, "batch_size": 128, "copy": "other", "inexact": [3, 50_004]})
    assert judge(tmp_path, **VALUE).reason == "protocol paper: no run"
    outcome = judge(tmp_path, {"cifar10": [copy]}, **VALUE)
    assert (outcome.verdict, outcome.claim.data) == (HOLDS, copy)


def test_two_trainings_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a", "paper", SOUND)
    write(tmp_path / "b", "paper", SOUND, optimizer={"lr": 0.1})
    assert "several trainings fit" in judge(tmp_path, **VALUE).reason


def test_the_interval_includes_the_choice_of_images(tmp_path: Path) -> None:
    """On all test images only seeds vary; equal seeds then leave no doubt."""
    write(tmp_path / "some", "paper", [0.3, 0.3, 0.3], count=1000)
    some = judge(tmp_path / "some", **VALUE).sound
    assert some.high - some.low > 2 * 4.3 * 0.9 * np.sqrt(0.3 * 0.7 / 1000)
    write(tmp_path / "all", "paper", [0.3, 0.3, 0.3], count=10_000)
    found = judge(tmp_path / "all", **VALUE).sound
    assert (found.low, found.high) == pytest.approx((0.3, 0.3))


def test_parameters_are_exact_and_need_no_seeds(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    exact = {name: VALUE[name] for name in ("id", "source", "data", "network", "tolerance")}
    exact |= {"kind": "exact", "measure": "parameters"}
    assert judge(tmp_path, **exact, value=1234).verdict == HOLDS
    assert judge(tmp_path, **exact, value=1235).verdict == FAILS
    assert judge(tmp_path, **exact | {"network": "cascaded"}, value=1234).reason == "no run"


def test_the_table_names_claim_value_and_verdict(tmp_path: Path) -> None:
    write(tmp_path, "paper", SOUND)
    sheet = claims_table([judge(tmp_path, **VALUE | {"published_epsilon": 0.01})])
    texts = [cell.text for cell in sheet.tables[0].rows[0]]
    assert texts[:4] == ["cifar10, standard, pgd", "0.005 (0.01)", "30", ""]
    assert texts[4].startswith("30.07 [")
    assert texts[5] == HOLDS
    assert sheet.tables[0].title.endswith(
        "holds: 1, holds only under the released protocol: 0, does not hold: 0, not measured: 0"
    )
    (row,) = sheet.rows.itertuples()
    assert (row.value, row.sound_value, row.sound_seeds, row.verdict) == (
        0.3,
        pytest.approx(0.3007, abs=1e-4),
        3,
        HOLDS,
    )


def test_mistakes_in_the_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    group = "released: {}\nseeds: 3\nwidest: 0.05\ntraining: {}\nsound: paper\ngroups:\n"
    group += "- {kind: exact, measure: parameters, source: '', data: cifar10, tolerance: 0, claims: [%s]}\n"
    path.write_text(group % "{id: a, network: standard, value: 1, epsilonn: 2}")
    with pytest.raises(UserError, match="unknown field epsilonn"):
        load_claims(path)
    path.write_text(group % "{id: a, network: standard, value: 1}, {id: a, network: standard, value: 1}")
    with pytest.raises(UserError, match="two claims are called a"):
        load_claims(path)
