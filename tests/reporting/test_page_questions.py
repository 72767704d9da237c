"""Statements of the page follow from the runs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmetry_robustness.reporting.comparability import name_differences, readable
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import read_metrics
from symmetry_robustness.reporting.page.page import percent
from symmetry_robustness.reporting.page.questions import Question, answers, find_questions, in_order
from symmetry_robustness.reporting.page.run import run_details, training_curves
from symmetry_robustness.reporting.statistics import share_interval
from symmetry_robustness.reporting.tables import table_sets
from symmetry_robustness.results.checks import Check

from .made import CIFAR, EPSILONS, SETTINGS, draw_broken_at, make_report, make_run
from .made_page import data_of, summary_of, write

MODEL = {"model": {"num_classes": 10}}


def asked(*paths: Path) -> tuple[list[Question], list[int]]:
    """The questions of some runs, and the order in which a page asks them."""
    summary, runs = summary_of(*paths)
    questions = find_questions(summary, frame_of(runs))
    return questions, in_order(questions)


def first_answer(*paths: Path, attack: int = 0, strength: int = 1) -> dict[str, Any]:
    """The answer to the first question of a page, of an attack (0 being the worst case) at a strength."""
    summary, _ = summary_of(*paths)
    questions, order = asked(*paths)
    return answers(questions[order[0]], summary)[attack][strength]


def aside(found: dict[str, Any]) -> dict[str, list[str]]:
    """Networks that were set aside, by the first word of the reason."""
    return {reason.split(" ")[0]: [row.network for row in rows] for reason, rows in found["aside"].items()}


def make_networks(directory: Path, strengths: dict[str, float], seeds: int = 3, **changes: Any) -> None:
    for name, strength in strengths.items():
        for seed in range(seeds):
            report = make_report(draw_broken_at(400, seed, strength), **changes)
            make_run(directory / f"{name}{seed}", report, name=name, seed=seed, config=MODEL)


def test_numbers_are_means_over_seeds_and_begin_without_attack(tmp_path: Path) -> None:
    drawn = [draw_broken_at(100, seed) for seed in range(3)]
    for seed, broken_at in enumerate(drawn):
        make_run(tmp_path / "runs" / str(seed), make_report(broken_at), seed=seed)
    data = data_of(write(tmp_path / "report.html", tmp_path / "runs"))
    question = data["questions"][data["start"][0]]
    pgd = next(attack for attack in question["attacks"] if attack["name"] == "PGD")
    assert pgd["x"] == [0.0, *EPSILONS]
    shares = [[(found["pgd"] > epsilon).mean() for epsilon in pgd["x"]] for found in drawn]
    ((network, *numbers),) = pgd["rows"]
    assert [value for value, _, _ in numbers] == [round(100 * share, 1) for share in np.mean(shares, axis=0)]
    assert question["networks"][str(network)] == [3, "passed", "passed"]
    for seed, line in enumerate(shares):
        found = pgd["runs"][str(seed)]
        assert [value for value, _ in found] == [round(100 * share, 1) for share in line]
        assert [error for _, error in found] == [
            pytest.approx(100 * math.sqrt(share * (1 - share) / 100), abs=0.06) for share in line
        ]


def test_the_best_is_the_one_with_the_largest_mean_beside_the_next_and_the_standard(tmp_path: Path) -> None:
    make_networks(tmp_path, {"standard": 0.2, "cascaded": 2.0, "weighted": 6.0})
    found = first_answer(tmp_path)
    means = {
        name: np.mean([draw_broken_at(400, seed, strength)["pgd"] > EPSILONS[0] for seed in range(3)])
        for name, strength in {"standard": 0.2, "cascaded": 2.0, "weighted": 6.0}.items()
    }
    assert (found["best"].network, found["next"].network, found["aside"]) == ("weighted", "cascaded", {})
    assert [other.network for _, other, _, _ in found["over"]] == ["cascaded", "standard"]
    for _, other, difference, test in found["over"]:
        assert difference == pytest.approx(means["weighted"] - means[other.network])
        assert test.value == pytest.approx(difference)
    assert found["verdict"] == ("best" if all(test.adjusted <= 0.05 for *_, test in found["over"]) else "chance")


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "single"), (3, "best")])
def test_one_training_is_no_verdict_however_clear_its_images(tmp_path: Path, seeds: int, verdict: str) -> None:
    make_networks(tmp_path, {"standard": 0.1, "cascaded": 60.0}, seeds)
    found = first_answer(tmp_path, attack=1, strength=2)
    assert (found["best"].network, found["verdict"]) == ("cascaded", verdict)


def test_a_failed_check_sets_a_network_aside_unless_all_failed(tmp_path: Path) -> None:
    failed = (Check("zero_gradients", "failed", "all are zero"),)
    make_networks(tmp_path / "one", {"standard": 0.2, "cascaded": 2.0})
    make_networks(tmp_path / "two", {"weighted": 20.0}, checks=failed)
    found = first_answer(tmp_path / "one", tmp_path / "two")
    assert (found["best"].network, aside(found)) == ("cascaded", {"failed": ["weighted"]})
    alone = first_answer(tmp_path / "two")
    assert (alone["best"].network, alone["aside"]) == ("weighted", {})


def test_a_network_at_chance_leads_nothing(tmp_path: Path) -> None:
    """A constant network is right for a tenth of the images, whatever is done to them."""
    constant = {attack: np.where(np.arange(400) % 10 == 0, np.inf, 0.0) for attack in ("fgsm", "pgd")}
    weak = {attack: np.where(np.arange(400) % 50 == 0, np.inf, EPSILONS[0]) for attack in ("fgsm", "pgd")}
    guessing = {"clean_accuracy": 0.1, "test_accuracy": {"test/accuracy": 0.1}}
    for seed in range(2):
        for name, broken_at, summary in (("constant", constant, guessing), ("standard", weak, None)):
            run = tmp_path / f"{name}{seed}"
            make_run(run, make_report(broken_at), name=name, seed=seed, config=MODEL, summary=summary)
    found = first_answer(tmp_path, strength=3)
    assert (found["best"].network, aside(found)) == ("standard", {"cannot": ["constant"]})
    notes = [note for table in table_sets(summary_of(tmp_path)[0])[0].tables for note in table.notes]
    assert "Set aside: constant (cannot lead: without attack not better than chance)." in notes
    alone = tmp_path / "alone" / "constant"
    make_run(alone, make_report(constant), name="constant", config=MODEL, summary=guessing)
    assert first_answer(tmp_path / "alone")["verdict"] == "nobody"


def test_seeds_that_differ_are_no_evidence_of_guessing(tmp_path: Path) -> None:
    """Two trainings right for 28 % and 39 % of 100 images: Student's t over them reaches from 0 to 100 %."""
    for seed, right in enumerate((28, 39)):
        broken_at = {attack: np.where(np.arange(100) < right, np.inf, 0.0) for attack in ("fgsm", "pgd")}
        summary = {"clean_accuracy": right / 100, "test_accuracy": {"test/accuracy": right / 100}, "test_images": 100}
        make_run(tmp_path / str(seed), make_report(broken_at), seed=seed, config=MODEL, summary=summary)
    measured, _ = summary_of(tmp_path)
    assert measured.results.loc[measured.results["measure"] == "clean_accuracy", "low"].item() == 0
    assert not measured.guessing
    assert first_answer(tmp_path)["best"].network == "standard"
    assert first_answer(tmp_path)["verdict"] != "nobody"


def test_the_first_question_is_where_networks_differ_most_and_not_where_all_are_near_zero(tmp_path: Path) -> None:
    """Equal at 2/255, apart at 4/255, nearly zero at 8/255 but with narrow intervals."""
    for name, share in (("standard", 0.2), ("cascaded", 0.5)):
        places = np.where(np.arange(500) < 500 * share, EPSILONS[2], EPSILONS[1])
        places[np.arange(500) > (490 if name == "cascaded" else 498)] = np.inf
        make_run(tmp_path / name, make_report({"fgsm": places, "pgd": places}), name=name, config=MODEL)
    questions, order = asked(tmp_path)
    question = questions[order[0]]
    assert question.attacks[0].places[question.first] == "ε = 4/255"


def test_networks_that_are_all_nearly_broken_are_asked_about_where_most_stands(tmp_path: Path) -> None:
    """4 % each at 2/255 with wide intervals; at 4/255 one keeps 0.4 % and the other nothing."""
    for name, kept in (("standard", 0), ("cascaded", 2)):
        places = np.where(np.arange(500) < 20, EPSILONS[1], 0.0)
        places[:kept] = np.inf
        make_run(tmp_path / name, make_report({"fgsm": places, "pgd": places}), name=name, config=MODEL)
    questions, order = asked(tmp_path)
    question = questions[order[0]]
    assert question.attacks[0].places[question.first] == "ε = 2/255"


def save_second(run: Path, report: Any, name: str, epsilons: tuple[float, ...], **settings: Any) -> None:
    """A further evaluation of the same images, at other epsilons, as `symrob evaluate` leaves it."""
    attacked = {
        attack: np.where(found <= max(epsilons), found, np.inf) for attack, found in report.minimal_epsilon.items()
    }
    changed = {"epsilons": list(epsilons)} | settings
    replace(
        report, epsilons=epsilons, minimal_epsilon=attacked, distance=attacked, settings=report.settings | changed
    ).save(run / "robustness", name)


def test_the_strongest_sound_protocol_asks_first_and_one_of_a_single_epsilon_is_there(tmp_path: Path) -> None:
    for seed, name in enumerate(("standard", "cascaded")):
        report = make_report(draw_broken_at(300, seed))
        run = make_run(tmp_path / "runs" / name, report, name=name, config=MODEL)
        stronger = {
            attack: np.where(np.arange(300) % 3 == 0, 0.01 * (found > 0), found)
            for attack, found in report.minimal_epsilon.items()
        }
        save_second(
            run,
            replace(report, minimal_epsilon=stronger),
            "strong",
            (8 / 255,),
            attacks={"pgd": {"class": "PGD", "steps": 99}},
        )
        save_second(run, report, "released", EPSILONS, judge="returned")
    questions, order = asked(tmp_path / "runs")
    names = [questions[number].name for number in order]
    assert names == ["strong (ℓ∞)", "FGSM, PGD-10 (ℓ∞)", "released (re-enacted, ℓ∞)", "test accuracy"]
    assert questions[order[0]].attacks[0].places == ["clean (ε = 0)", "ε = 8/255"]
    text = write(tmp_path / "report.html", tmp_path / "runs").read_text()
    table = text.partition('<section id="protocols"')[2].partition("</section>")[0]
    assert all(name in table for name in names)


def test_every_data_set_has_its_question_and_cifar10_comes_first(tmp_path: Path) -> None:
    for name, data in (("a", "CIFAR100"), ("b", "CIFAR10")):
        target = CIFAR | {"_target_": f"symmetry_robustness.data.{data}DataModule"}
        make_run(tmp_path / name, make_report(draw_broken_at(50, 0)), data=target)
    questions, order = asked(tmp_path)
    assert [questions[number].group.data for number in order[:2]] == ["cifar10", "cifar100"]
    assert all(questions[number].norm for number in order[:2])


def test_protocols_and_numbers_of_images_are_questions_of_their_own(tmp_path: Path) -> None:
    released = SETTINGS | {"judge": "returned"}
    make_run(tmp_path / "a", make_report(draw_broken_at(100, 0)))
    make_run(tmp_path / "b", make_report(draw_broken_at(100, 0), settings=released), name="other")
    make_run(tmp_path / "c", make_report(draw_broken_at(200, 0)), name="third")
    questions, order = asked(tmp_path)
    assert len({question.name for question in questions}) == len(questions) == 4  # three, and the whole test set
    assert [len(question.attacks[0].points[0.0]) for question in questions if question.norm] == [1, 1, 1]
    assert not questions[order[0]].group.released


def test_views_of_the_test_images_are_a_curve(tmp_path: Path) -> None:
    views = {f"test/rotation_{angle}/accuracy": angle / 400 for angle in (0, 90, 180)} | {"test/fog_3/accuracy": 0.5}
    for name in ("standard_4layer", "invariant_4layer"):
        make_run(tmp_path / "runs" / name, name=name, summary={"test_accuracy": views})
    ((question,), _) = asked(tmp_path / "runs")
    rotation, fog = (
        next(one for one in question.attacks if one.title == title) for title in ("rotation of the images", "fog")
    )
    assert [[row.value for row in rows.values()] for rows in rotation.points.values()] == [
        [0, 0],
        [0.225] * 2,
        [0.45] * 2,
    ]
    assert (rotation.places, fog.places) == (["0°", "90°", "180°"], ["severity 3"])
    summary, _ = summary_of(tmp_path / "runs")
    found = answers(question, summary)[question.attacks.index(rotation)][1]
    assert (found["best"].network, found["verdict"]) == ("invariant_4layer", "equal")
    page = data_of(write(tmp_path / "report.html", tmp_path / "runs"))
    chart = next(one for one in page["questions"][0]["attacks"] if one["name"] == "rotation of the images")
    assert [value for value, *_ in chart["runs"]["0"]] == [0.0, 22.5, 45.0]


def test_titles_are_used_where_they_tell_networks_apart(tmp_path: Path) -> None:
    titles = {"a": "parallel, rotation", "b": "same", "c": "same", "old_name": None}
    for name, title in titles.items():
        make_run(tmp_path / name, make_report(draw_broken_at(50, 0)), name=name, config={"title": title})
    summary, _ = summary_of(tmp_path)
    assert {readable(label) for label in summary.results["label"]} == {"parallel, rotation", "b", "c", "old name"}


def test_a_title_decides_neither_what_is_averaged_nor_what_is_compared(tmp_path: Path) -> None:
    for seed, title in enumerate((None, "one", "one")):
        report = make_report(draw_broken_at(50, seed))
        make_run(tmp_path / str(seed), report, seed=seed, config={"title": title} | MODEL)
    summary, _ = summary_of(tmp_path)
    assert set(summary.results["seeds"]) == {3}


def test_percentages_are_those_of_the_tables() -> None:
    shares = [correct / images for images in (128, 512, 1000, 10_000) for correct in range(images + 1)]
    assert [percent(share) for share in shares] == [f"{round(100 * share, 1):.1f}" for share in shares]


def test_networks_under_several_trainings_are_named_and_compared_by_their_training(tmp_path: Path) -> None:
    trainings = {
        "PGDTraining": {"objective": {"_target_": "symmetry_robustness.objectives.PGDTraining", "steps": 10}},
        "CrossEntropy": {"objective": {"_target_": "symmetry_robustness.objectives.CrossEntropy", "smoothing": 0.0}},
    }
    for strength, name in enumerate(("standard", "invariant")):
        for training, config in trainings.items():
            report = make_report(draw_broken_at(60, 0, strength=1 + strength + 2 * (training == "PGDTraining")))
            make_run(tmp_path / name / training, report, name=name, config=config)
    (tmp_path / "page").mkdir()
    page = data_of(write(tmp_path / "page" / "report.html", tmp_path / "standard", tmp_path / "invariant"))
    expected = [
        f"{name} (objective={training})" for name in ("invariant", "standard") for training in sorted(trainings)
    ]
    assert sorted(title for _, title, *_ in page["runs"]) == expected
    summary, _ = summary_of(tmp_path / "standard", tmp_path / "invariant")
    (group,) = {group.training_differs_in for group in summary.groups.values()}
    assert group == "objective"
    questions, order = asked(tmp_path / "standard", tmp_path / "invariant")
    found = answers(questions[order[0]], summary)[0][-1]
    assert found["best"].label == "invariant (objective=PGDTraining)"
    assert [other.label for title, other, *_ in found["over"] if "standard" in title] == [
        "standard (objective=PGDTraining)"
    ]


PGD_TRAINING = {"_target_": "symmetry_robustness.objectives.PGDTraining", "steps": 10}
CROSS_ENTROPY = {"_target_": "symmetry_robustness.objectives.CrossEntropy", "smoothing": 0.0}


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        pytest.param(
            {"standard": [{}, PGD_TRAINING], "invariant": [PGD_TRAINING]},
            "standard (objective=PGDTraining)",
            id="the leader has one training",
        ),
        pytest.param(
            {"standard": [{}, PGD_TRAINING], "invariant": [PGD_TRAINING, PGD_TRAINING | {"steps": 7}]},
            "standard (objective=PGDTraining)",
            id="the leader has other trainings",
        ),
        pytest.param(
            {"standard_4layer": [{}, PGD_TRAINING], "standard": [{}], "invariant_4layer": [PGD_TRAINING]},
            "standard_4layer (objective=PGDTraining)",
            id="a larger standard network has one training, too",
        ),
    ],
)
def test_a_leader_is_compared_with_the_standard_network_trained_most_alike(
    tmp_path: Path, networks: dict[str, list[dict[str, object]]], expected: str
) -> None:
    for name, objectives in networks.items():
        for number, objective in enumerate(objectives):
            strength = 9 - number if name.startswith("invariant") else 1 + number
            report = make_report(draw_broken_at(60, 0, strength=strength))
            make_run(tmp_path / name / str(number), report, name=name, config={"objective": objective or CROSS_ENTROPY})
    summary, _ = summary_of(tmp_path)
    questions, order = asked(tmp_path)
    found = answers(questions[order[0]], summary)[0][-1]
    assert found["best"].network.startswith("invariant")
    assert [other.label for title, other, *_ in found["over"] if "standard" in title] == [expected]


def test_different_trainings_have_different_labels() -> None:
    def crop(padding: int) -> dict[str, object]:
        return {"_target_": "Augmentations", "crop_flip": {"_target_": "RandomCropFlip", "padding": padding}}

    data = [{"data": {"augmentation": augmentation}} for augmentation in (None, crop(2), crop(4))]
    assert name_differences(data) == [
        "data.augmentation=null",
        "data.augmentation=crop_flip, data.augmentation.crop_flip.padding=2",
        "data.augmentation=crop_flip, data.augmentation.crop_flip.padding=4",
    ]
    many = [dict.fromkeys("abcd", 1), dict.fromkeys("abc", 1) | {"d": 2}, dict.fromkeys("abc", 2) | {"d": 2}]
    assert len({*name_differences(many)}) == 3


def test_details_of_a_run(tmp_path: Path) -> None:
    images = np.zeros((6, 3, 4, 4), dtype=np.float32)
    report = make_report(draw_broken_at(60, 0), examples={"clean": images, "pgd": images + np.float32(0.1)})
    make_run(tmp_path / "run", report)
    _, (run,) = summary_of(tmp_path)
    questions, _ = asked(tmp_path)
    details = run_details(run, "run", "standard", questions, pictures=True)
    (part,) = details["parts"]
    assert [row["title"] for row in part["examples"]] == ["clean", "pgd", "pgd, change ×5"]
    assert part["examples"][1]["caption"].count(";") == 4  # five images
    assert (details["facts"]["Parameters"], details["worst"]) == ("1,234", "passed")
    pgd = next(line for line in part["charts"][0]["series"] if line["name"] == "PGD")
    shares = [100 * (draw_broken_at(60, 0)["pgd"] > epsilon).mean() for epsilon in (0.0, *EPSILONS)]
    assert pgd["y"] == [round(share, 1) for share in shares]
    low, high = share_interval(np.array(shares) / 100, 0.0, 60)
    assert pgd["low"] == pytest.approx(100 * low, abs=0.06)
    assert pgd["high"] == pytest.approx(100 * high, abs=0.06)
    broken = {attack: np.full(40, EPSILONS[0]) for attack in ("fgsm", "pgd")}
    make_run(tmp_path / "none" / "run", make_report(broken))
    (found,) = run_details(
        summary_of(tmp_path / "none")[1][0], "run", "standard", asked(tmp_path / "none")[0], pictures=False
    )["parts"]
    (fgsm, *_) = found["charts"][0]["series"]
    assert (fgsm["low"][-1], fgsm["high"][-1]) == (0.0, 8.8)  # 0 of 40 is no proof of 0 %
    assert run_details(run, "run", "standard", questions, pictures=False)["parts"][0]["examples"] is None


def test_declared_figures_of_measures_are_on_the_page_of_a_run(tmp_path: Path) -> None:
    curve = {"kind": "curve", "x": [0.0, 1.0, 2.0], "y": ["value"], "xlabel": "x", "ylabel": "y"}
    panel = {"kind": "panel", "images": "images", "values": "mean", "label": "mean"}
    settings = SETTINGS | {"measures": {"mine": {"class": "Mine", "means": ["value"], "plots": [curve, panel]}}}
    arrays = {"indices": np.arange(8), "value": np.ones((8, 3)), "images": np.ones((2, 3, 4, 4)), "mean": np.ones(8)}
    make_run(tmp_path / "runs", make_report(draw_broken_at(8, 0), measures={"mine": arrays}, settings=settings))
    _, (run,) = summary_of(tmp_path / "runs")
    (part,) = run_details(run, "run", "standard", asked(tmp_path / "runs")[0], pictures=True)["parts"]
    assert [(chart["title"], chart["series"][0]["y"]) for chart in part["plots"]] == [("mine", [1.0, 1.0, 1.0])]
    assert [(row["title"], row["caption"]) for row in part["examples"]] == [("mine", "mean 1; mean 1")]
    assert part["measures"][0][0] == "mine"


def test_training_curves_keep_kinds_apart_and_leave_the_final_test_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,epoch,robust/clever,robust/pgd/linf_0.03137,train/loss,validation/loss,test/loss\n"
        "10,0,0.5,,1.5,nan,\n20,1,,0.25,1.25,1.0,\n21,2,,,,,0.75\n"
    )
    charts = {
        chart["title"]: (chart["x"], {one["name"]: one["y"] for one in chart["series"]})
        for chart in training_curves(read_metrics(path))
    }
    assert charts == {
        "loss": ([1, 2], {"train/loss": [1.5, 1.25], "validation/loss": [None, 1.0]}),
        "clever": ([1], {"robust/clever": [0.5]}),
        "accuracy under pgd": ([2], {"robust/pgd/linf_0.03137": [0.25]}),
    }
    assert training_curves([]) == []
    path.write_text("epoch,train/loss\n" + "".join(f"{epoch},{epoch}\n" for epoch in range(1000)))
    (long,) = training_curves(read_metrics(path))
    assert (len(long["x"]), long["x"][0], long["x"][-1]) == (200, 1, 1000)
