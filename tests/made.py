"""What a run made, without what differs from run to run."""

from pathlib import Path

from cli.run_record import RUN_FILE
from tests.support import tree


def made(root: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, but for run.json, which holds times."""
    return {name: data for name, data in tree(root).items() if Path(name).name != RUN_FILE}
