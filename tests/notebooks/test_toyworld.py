"""The notebook: clean as it lies here, and every cell of it runs."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_output_and_no_place_of_one_machine(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert len(path.read_bytes()) < 20_000
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert not re.search(r"""["'(\s](/\w+/|[A-Z]:\\)|https?://""", "".join(cell["source"]))


def outputs(notebook: Any) -> list[dict[str, Any]]:
    return [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_every_cell_runs_on_the_toy_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbclient and ipykernel run it (requirements-dev.txt)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel run it (requirements-dev.txt)")
    pytest.importorskip("ipykernel", reason="nbclient and ipykernel run it (requirements-dev.txt)")
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # in place of the installation
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))

    class ThisPython(KernelSpecManager):
        """The kernel of this very interpreter, whatever else is installed on the machine."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name=kernel_name, language="python")

    (path,) = NOTEBOOKS
    notebook = nbformat.read(path, as_version=4)
    manager = AsyncKernelManager(kernel_spec_manager=ThisPython())
    client = nbclient.NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    found = outputs(notebook)
    assert sum("image/png" in data for data in found) == 3
    mask = np.asarray(Image.open(tmp_path / "output/photo/toy_2025_0001_mask.png"))
    values, counts = np.unique(mask, return_counts=True)
    assert found[-1]["text/plain"] == str(dict(zip(values.tolist(), counts.tolist())))
    assert set(values.tolist()) == {0, 1, 7, 255}  # house and ball
