from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import (
    Clever,
    EvaluationProtocol,
    Progress,
    RemovalTolerance,
    RobustnessReport,
    Worker,
    evaluate_in_shards,
    evaluate_robustness,
    sharding,
)
from symmetry_robustness.robustness.checks.derived import add_derived_checks

PROTOCOL = EvaluationProtocol(
    attacks={"fgsm": FGSM(), "pgd": PGD(steps=4, random_start=True)},
    epsilons=[0.005, 0.02],
    clever=Clever(num_batches=8, samples_per_batch=4, radius=0.5),
    clever_images=5,
    keep_examples=9,
    measures={"removal": RemovalTolerance(levels=4, images=9)},
)


@pytest.fixture(autouse=True, scope="module")
def _small_shards_of_clever() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "_PASSES", 64)  # two images
        yield


class Interrupted(Exception):
    pass


def equal(first: RobustnessReport | None, second: RobustnessReport | None) -> None:
    assert first is not None
    assert second is not None
    assert first.summary() == second.summary()
    assert first.checks == second.checks
    assert first.settings == second.settings
    assert {n: v for n, v in first.counts.items() if n != "seconds"} == {
        n: v for n, v in second.counts.items() if n != "seconds"
    }
    for name in ("indices", "labels", "predictions"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for group in ("minimal_epsilon", "distance", "examples"):
        for name, values in getattr(first, group).items():
            np.testing.assert_array_equal(values, getattr(second, group)[name])
    for measure in ("removal", "clever"):
        for name, values in first.measures[measure].items():
            np.testing.assert_array_equal(values, second.measures[measure][name])


@pytest.fixture(scope="module")
def undisturbed(
    network: nn.Module, images: Tensor, labels: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> RobustnessReport:
    folder = tmp_path_factory.mktemp("shards")
    report = evaluate_in_shards(network, images, labels, PROTOCOL, folder, shard_size=7)
    assert report is not None
    assert len(list(folder.glob("attacks-*.json"))) == 5
    assert len(list(folder.glob("measures.clever-*.json"))) == 3
    assert len(list(folder.glob("measures.removal-*.json"))) == 2
    assert len(list(folder.glob("checks-*.json"))) == 1
    return report


def test_shards_give_what_one_evaluation_gives(
    network: nn.Module, images: Tensor, labels: Tensor, undisturbed: RobustnessReport
) -> None:
    whole = evaluate_robustness(network, images, labels, PROTOCOL)
    assert undisturbed.settings == whole.settings
    assert {c.name: c.status for c in undisturbed.checks} == {c.name: c.status for c in whole.checks}
    # Two look at every shard by itself, and one counts gradients, of which more or fewer are taken ahead of time; the
    # others saw the images of the whole, and give the same evidence.
    each_shard = {"images_in_bounds", "random_outputs", "finite_gradients"}
    assert {c for c in undisturbed.checks if c.name not in each_shard} == {
        c for c in whole.checks if c.name not in each_shard
    }
    np.testing.assert_array_equal(undisturbed.measures["clever"]["indices"], range(5))
    for name in whole.minimal_epsilon:
        np.testing.assert_array_equal(undisturbed.minimal_epsilon[name], whole.minimal_epsilon[name])
        np.testing.assert_allclose(undisturbed.examples[name], whole.examples[name], atol=1e-5)
    assert undisturbed.summary() == pytest.approx(whole.summary(), rel=1e-4)
    # How much is tried ahead depends on how many slots are free.
    assert undisturbed.counts["gradients.pgd"] == pytest.approx(whole.counts["gradients.pgd"], rel=0.1)


@pytest.mark.parametrize("reports", [1, 2, 8, 17, 30])
def test_interrupted_anywhere_ends_with_the_same_numbers(
    network: nn.Module, images: Tensor, labels: Tensor, undisturbed: RobustnessReport, tmp_path: Path, reports: int
) -> None:
    seen: list[Progress] = []

    def interrupt(state: Progress) -> None:
        seen.append(state)
        if len(seen) == reports:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=7, progress=interrupt)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    equal(evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=7), undisturbed)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(tmp_path.glob("*.json"))) == 11


def test_expensive_checks_run_once_when_all_attacks_are_done(
    network: nn.Module, images: Tensor, labels: Tensor, undisturbed: RobustnessReport, tmp_path: Path
) -> None:
    def interrupt(state: Progress) -> None:
        if state.stage == "checks":
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=7, progress=interrupt)
    waiting = [RobustnessReport.load(path) for path in sorted(tmp_path.glob("*.json"))]
    assert len(waiting) == 10
    assert "longer_attack" not in {check.name for report in waiting for check in report.checks}
    assert "longer_attack" in {check.name for check in undisturbed.checks}
    equal(evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=7), undisturbed)


def test_a_damaged_shard_is_computed_again(
    network: nn.Module, images: Tensor, labels: Tensor, undisturbed: RobustnessReport, tmp_path: Path
) -> None:
    evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=7)
    (tmp_path / "attacks-0000007.npz").write_bytes(b"half")
    (tmp_path / "clever-0000002.json").write_text("{")
    (tmp_path / ".attacks-0000014.json.x1").write_text("left by a killed process")
    equal(evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=7), undisturbed)


def test_processes_take_turns_and_finish_for_each_other(
    network: nn.Module, images: Tensor, labels: Tensor, undisturbed: RobustnessReport, tmp_path: Path
) -> None:
    stopped: list[Progress] = []

    def stop_after_two_shards(state: Progress) -> None:
        stopped.append(state)
        if len(list(tmp_path.glob("*.json"))) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluate_in_shards(
            network,
            images,
            labels,
            PROTOCOL,
            tmp_path,
            shard_size=7,
            worker=Worker(1, 3),
            progress=stop_after_two_shards,
        )
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["attacks-0000007", "attacks-0000028"]
    equal(
        evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, shard_size=7, worker=Worker(0, 3)), undisturbed
    )


def test_nothing_is_left_to_do_when_another_process_is_done(
    network: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    report = evaluate_in_shards(network, images, labels, PROTOCOL, tmp_path, should_stop=lambda: True)
    assert report is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("should_stop", [True, False], ids=["by another process", "by somebody"])
def test_shards_are_removed_while_one_is_written(
    network: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path, should_stop: bool
) -> None:
    folder, asked = tmp_path / "partial", []

    def remove_at_the_last_moment() -> bool:
        asked.append(folder.exists())
        if len(asked) == 2:  # the shard is about to be saved
            folder.symlink_to("nowhere")
        return should_stop and len(asked) > 2

    def evaluate() -> RobustnessReport | None:
        return evaluate_in_shards(network, images, labels, PROTOCOL, folder, should_stop=remove_at_the_last_moment)

    if should_stop:
        assert evaluate() is None
    else:
        with pytest.raises(FileExistsError, match="partial"):
            evaluate()


def test_a_window_without_images_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shard_size must be at least 1"):
        evaluate_in_shards(
            network, torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), PROTOCOL, tmp_path, shard_size=0
        )


def test_reports_of_ranks_merge_to_that_of_the_whole(
    network: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    whole = evaluate_robustness(network, images, labels, PROTOCOL)
    parts = []
    for rank in range(3):
        rows = torch.arange(rank, 30, 3)
        part = evaluate_robustness(network, images[rows], labels[rows], PROTOCOL, indices=rows)
        parts.append(RobustnessReport.load(part.save(tmp_path, f"rank{rank}")))
    merged = add_derived_checks(RobustnessReport.merge(parts), PROTOCOL.attacks)
    assert merged.summary() == pytest.approx(whole.summary(), rel=1e-4)
    np.testing.assert_array_equal(merged.measures["clever"]["indices"], range(5))
    np.testing.assert_array_equal(merged.examples["clean"], whole.examples["clean"])
    assert {c.name: c.status for c in merged.checks} == {c.name: c.status for c in whole.checks}
