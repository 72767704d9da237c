"""docs/any_network.ipynb runs from its first cell to its last, in an empty folder."""

import json
import os
import sys
from pathlib import Path

from tests import fork_server

NOTEBOOK = Path(__file__).parents[2] / "docs" / "any_network.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    script = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "IMAGES, EPOCHS" in script
    script = script.replace("= 2000, 3,", "= 200, 2,")  # less training, and less to see, in less time
    done = fork_server.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "under PGD at 1/255" in done.stdout
    assert "normalized_once" in done.stdout
    assert (tmp_path / "outputs" / "resnet18" / "summary.json").is_file()
    assert "'config.yaml', 'progress.json', 'provenance.json', 'robustness', 'summary.json'" in done.stdout
