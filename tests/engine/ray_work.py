"""Work for the workers of tests/engine/test_ray_cluster.py, in a file they can import."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import StopRun, UserError
from engine.ray_cluster import Unit


def set_up(plan: dict[str, Any]) -> Any:
    if "mistake" in plan:
        raise UserError(plan["mistake"])
    if "surprise" in plan:
        raise ZeroDivisionError(plan["surprise"])
    return partial(work, plan)


def work(plan: dict[str, Any], unit: Unit) -> tuple[str, list[int]]:
    """Doubles numbers. 13 ends the process, 14 as well but for the second time; 15 stops the run, 16 is a mistake."""
    if unit.only_look:
        return "looked", list(unit.items)
    for number in unit.items:
        if number == 13 or (number == 14 and first_time(Path(plan["folder"]) / "fourteen")):
            os._exit(1)
        if number == 15:
            raise StopRun("no room")
        if number == 16:
            raise UserError("sixteen: not a number")
    return "doubled", [2 * number for number in unit.items]


def first_time(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
        return True
    except FileExistsError:
        return False
