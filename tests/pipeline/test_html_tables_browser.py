"""Tables of many classes in a real browser: their heads stay in sight, and the box they scroll in fits the window."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from coco14.spec import SPEC
from report.html_report import Report, write_report
from report.stage_gallery import Spool
from report.stage_report import Findings
from tests.browser import LARGE, SMALL, open_browser, set_window

AT = "const box = arguments[0].getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The browser on a page of COCO's 81 labels."""
    folder = tmp_path_factory.mktemp("page")
    findings = Findings.empty(SPEC.num_labels)
    findings.confusion += np.random.default_rng(0).integers(0, 9, findings.confusion.shape)
    findings.pixels[: SPEC.num_labels] = 1
    with (folder / "tiles").open("w+b") as stream:
        write_report(folder / "report.html", Report(SPEC, [], findings, Spool(stream), []))
    with open_browser(folder / "profile") as driver:
        driver.get((folder / "report.html").as_uri())
        yield driver


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("table", ["scores", "confusion"])
def test_heads_of_a_long_table_stay_in_sight(page: Any, table: str, size: tuple[int, int]) -> None:
    set_window(page, size)
    box = page.find_element("css selector", f"#{table} .wide")
    page.execute_script("arguments[0].scrollIntoView(); arguments[0].scrollTo(9999, 900)", box)
    left, top, right, bottom = page.execute_script(AT, box)
    assert bottom - top <= 0.9 * size[1] and right <= size[0]
    head = page.execute_script(AT, box.find_element("css selector", "thead th:last-child"))
    corner = page.execute_script(AT, box.find_element("css selector", "thead tr > :first-child"))
    row = page.execute_script(AT, box.find_element("css selector", "tbody tr:nth-child(40) th"))
    for part in (head, corner, row):
        assert left <= part[0] and part[2] <= right + 1 and top <= part[1] and part[3] <= bottom
    assert head[1] == pytest.approx(top, abs=2) and corner[0] == row[0] == pytest.approx(left, abs=2)
    over = "return document.elementFromPoint(arguments[0], arguments[1]).closest('thead') !== null"
    assert page.execute_script(over, (head[0] + head[2]) / 2, (head[1] + head[3]) / 2)
    assert page.execute_script(over, (corner[0] + corner[2]) / 2, (corner[1] + corner[3]) / 2)
