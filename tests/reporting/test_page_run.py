"""What the page of one run shows beside its numbers."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from symmetry_robustness.reporting.evaluation import Examples
from symmetry_robustness.reporting.load import find_runs, read_metrics
from symmetry_robustness.reporting.page_run import example_rows, run_details, training_curves

from .made import make_run


def test_training_curves_keep_kinds_apart_and_leave_the_final_test_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,epoch,robust/clever,robust/clean,robust/pgd/linf_0.03137,train/loss,validation/loss,test/loss\n"
        "10,0,0.5,,,1.5,nan,\n20,1,,0.5,0.25,1.25,1.0,\n21,2,,,,,,0.75\n"
    )
    curves = training_curves(read_metrics(path))
    assert curves == {
        "loss": {"x": [1, 2], "names": ["train", "validation"], "columns": [[1.5, 1.25], [None, 1.0]]},
        "accuracy under pgd": {"x": [2], "names": ["clean", "linf 8/255"], "columns": [[0.5], [0.25]]},
        "clever": {"x": [1], "names": ["robust/clever"], "columns": [[0.5]]},
    }
    assert training_curves([]) == {}


def test_provenance_has_dotted_names_and_leaves_out_what_is_empty(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run")
    found = {"command": ["symrob", "train"], "hardware": {"cores": 2, "gpu": None}, "packages": {}, "clean": False}
    (directory / "provenance.json").write_text(json.dumps(found))
    ((run,), _) = find_runs([directory])
    assert run_details(run, pictures=False)["provenance"] == {
        "command": "symrob train",
        "hardware.cores": "2",
        "clean": "False",
    }


def test_long_trainings_are_thinned_but_keep_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,train/loss\n" + "".join(f"{epoch},{epoch}\n" for epoch in range(1000)))
    (curves,) = training_curves(read_metrics(path)).values()
    assert len(curves["x"]) == 200
    assert (curves["x"][0], curves["x"][-1]) == (1, 1000)


def test_examples_are_the_images_themselves() -> None:
    clean = np.zeros((6, 3, 4, 4), dtype=np.float32)
    clean[0, 0] = 1
    attacked = clean + np.float32(0.1)
    broken_at = np.array([0, 2 / 255, 1, 1, 1, np.inf])
    rows = list(example_rows(Examples(np.arange(6), clean, {"pgd": attacked}, {"pgd": broken_at})))
    assert [row["title"] for row in rows] == ["clean", "pgd", "pgd, change ×5"]
    assert rows[1]["captions"][:2] == ["wrong without attack", "ε = 2/255"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(rows[0]["pictures"][0].partition(",")[2]))))
    np.testing.assert_array_equal(pixels, np.tile([255, 0, 0], (4, 4, 1)))
