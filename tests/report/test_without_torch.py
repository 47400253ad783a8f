"""Reports, scores and exports run where torch is not installed."""

import subprocess
import sys

from tests.support import ROOT


def test_no_module_imports_torch() -> None:
    names = [f"{folder}.{path.stem}" for folder in ("report", "exports") for path in (ROOT / folder).glob("*.py")]
    assert len(names) > 10
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
