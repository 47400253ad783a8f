"""The page in a real browser, from disk: order, filters, pictures that come when needed, 10,000 images."""

import base64
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coco14.spec
from dataset.split_file import read_references
from report.gallery import Spool, draw, pictures_of, tiles_of
from report.measure import Entry, Findings, ReportJob, least_certain, measure
from report.page import Report, write_report
from tests.browser import LARGE, SMALL, console_errors, open_browser, set_window
from tests.report_world import KEYS, add_outputs, count, kept_share
from voc12.spec import CLASSES

pytestmark = pytest.mark.slow  # a browser

AT = "const box = arguments[0].getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]"
HOSTILE = "<img src=x onerror=document.title='broken'>"
MANY = 10_000
PAGE = 24  # as in page.js
TILES = 6  # of one image: photo, mask, truth, difference, a CAM over the photo


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def job(world: Path) -> ReportJob:
    return add_outputs(world)


def write(job: ReportJob, out: Path, rename: dict[str, str] | None = None, ids: Sequence[str] = tuple("abcde")) -> str:
    """The page of the five images as an address; `rename` changes ids after the files were read."""
    findings = Findings.empty(job.spec.num_labels)
    list(measure(job, list(ids), findings, 2))
    with tempfile.TemporaryFile() as stream:
        spool = Spool(stream)
        list(draw(job, least_certain(findings.entries, 9), spool, 2))
        for record in spool.records:
            record["id"] = (rename or {}).get(record["id"], record["id"])
        write_report(out, Report(job.spec, [], findings, spool, []))
    return out.as_uri()


@pytest.fixture
def page(browser: Any, job: ReportJob, tmp_path: Path) -> Any:
    """The browser on the page of five images."""
    browser.get("about:blank")
    set_window(browser, LARGE)
    console_errors(browser)
    browser.get(write(job, tmp_path / "report.html"))
    yield browser
    assert console_errors(browser) == []


def all_of(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def order(driver: Any) -> list[str]:
    return driver.execute_script("return [...document.querySelectorAll('.card')].map((card) => card.dataset.id)")


def status(driver: Any) -> str:
    return all_of(driver, "#status")[0].text


def press(driver: Any, selector: str) -> None:
    """Reach a control as a keyboard user does, and press it."""
    from selenium.webdriver.common.keys import Keys

    control = all_of(driver, selector)[0]
    driver.execute_script("arguments[0].focus()", control)
    assert driver.switch_to.active_element == control
    control.send_keys(Keys.ENTER)


def filled(driver: Any) -> int:
    return len(all_of(driver, "img[src]"))


def wait(driver: Any, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60).until(lambda _: driver.execute_script(f"return {condition}"))


def test_least_certain_first_then_by_iou_either_way_by_keyboard(page: Any, world: Path) -> None:
    by_confidence = sorted("abcde", key=lambda one: kept_share(world, one))
    by_iou = sorted("abcde", key=lambda one: count(world, one).miou())
    assert by_confidence != by_iou
    assert order(page) == by_confidence and status(page) == "5 of 5 images, least certain first"
    press(page, "[data-sort=iou]")
    assert order(page) == by_iou and status(page) == "5 of 5 images, lowest IoU first"
    press(page, "[data-sort=iou]")
    assert order(page) == by_iou[::-1]
    assert all_of(page, "[data-sort=iou]")[0].get_attribute("aria-pressed") == "true"
    press(page, "[data-sort=confidence]")
    assert order(page) == by_confidence
    press(page, "[data-sort=confidence]")
    assert order(page) == by_confidence[::-1]


def test_class_filter_keeps_images_of_the_class_and_sorts_by_its_iou(page: Any, world: Path) -> None:
    from selenium.webdriver.support.ui import Select

    choice = Select(all_of(page, "#class")[0])
    assert [option.text for option in choice.options] == ["all", *CLASSES]
    choice.select_by_visible_text("dog")  # in no mask: only in the CAMs of b
    assert order(page) == [one for one in "abcde" if CLASSES.index("dog") in KEYS[one]] == ["b"]
    choice.select_by_visible_text("person")
    press(page, "[data-sort=iou]")
    assert order(page) == sorted("abcde", key=lambda one: count(world, one).iou(15) or 0)
    assert status(page) == "5 of 5 images with person, lowest IoU first (IoU of person)"
    choice.select_by_visible_text("sheep")
    assert order(page) == [] and status(page).startswith("0 of 5")


def test_sort_by_class_takes_the_first_class_then_the_least_certain(page: Any, job: ReportJob, world: Path) -> None:
    press(page, "[data-sort=class]")

    def key(one: str) -> tuple[int, float]:
        return min(
            label for label in (1, 8, 15) if count(world, one).true(label) + count(world, one).given(label)
        ), kept_share(world, one)

    assert order(page) == sorted("abcde", key=key)


def test_id_search_and_the_address_keep_the_view(page: Any) -> None:
    all_of(page, "#find")[0].send_keys("B")
    press(page, "[data-sort=iou]")
    assert order(page) == ["b"]
    address = page.current_url
    page.get("about:blank")
    page.get(address)
    assert order(page) == ["b"] and all_of(page, "#find")[0].get_attribute("value") == "B"
    assert all_of(page, "[data-sort=iou]")[0].get_attribute("aria-pressed") == "true"


def keys(driver: Any, text: str) -> None:
    """Press keys wherever the focus is."""
    driver.switch_to.active_element.send_keys(text)


def focused(driver: Any) -> str | None:
    return driver.execute_script("return document.activeElement.closest('.card')?.dataset.id ?? null")


def downloaded(driver: Any, selector: str, folder: Path) -> list[str]:
    """Click a link, and read the file that comes as a split file is read."""
    folder.mkdir(exist_ok=True)
    behaviour = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": False}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    name = all_of(driver, selector)[0].get_attribute("download")
    press(driver, selector)
    for _ in range(2400):
        if (folder / name).is_file() and not list(folder.glob("*.crdownload")):
            return read_references(folder / name)
        time.sleep(0.05)
    raise AssertionError(f"{name} was not downloaded")


def test_text_finds_class_names_too(page: Any) -> None:
    all_of(page, "#find")[0].send_keys("Dog")
    assert order(page) == [one for one in "abcde" if CLASSES.index("dog") in KEYS[one]] == ["b"]


def test_images_are_marked_by_keyboard_and_leave_as_split_files(
    browser: Any, job: ReportJob, world: Path, tmp_path: Path
) -> None:
    names = {"b": "sub/b b", "d": "d.e é"}
    for old, new in names.items():
        for folder, suffix in (("JPEGImages", "jpg"), ("masks", "png"), ("cams", "npz"), ("SegmentationClass", "png")):
            target = world / folder / f"{new}.{suffix}"
            target.parent.mkdir(exist_ok=True)
            (world / folder / f"{old}.{suffix}").rename(target)
    ids = ["a", names["b"], "c", names["d"], "e"]
    browser.get("about:blank")
    set_window(browser, LARGE)
    console_errors(browser)
    browser.get(write(job, tmp_path / "marks.html", ids=ids))
    shown = order(browser)
    assert sorted(shown) == sorted(ids) and focused(browser) is None
    for sequence, place in (("j", 0), ("j", 1), ("k", 0), ("k", 0), ("\ue014", 1), ("jj", 3), ("\ue012", 2)):  # arrows
        keys(browser, sequence)
        assert focused(browser) == shown[place]
    keys(browser, "m")
    keys(browser, "jmjmm")  # the last one is marked and not marked again
    press(browser, f".card[data-id='{shown[0]}'] [data-mark]")
    marked = {shown[0], shown[2], shown[3]}
    assert all_of(browser, "#marked")[0].text == "3 images marked"
    assert {card.get_attribute("data-id") for card in all_of(browser, ".card.marked")} == marked
    assert downloaded(browser, "#marked", tmp_path / "got") == [one for one in ids if one in marked]
    assert downloaded(browser, "#others", tmp_path / "got") == [one for one in ids if one not in marked]
    browser.refresh()
    assert all_of(browser, "#marked")[0].text == "3 images marked"
    all_of(browser, "#only")[0].click()
    assert set(order(browser)) == marked and "3 of 5 images, marked only" in status(browser)
    press(browser, "#clear")
    assert order(browser) == [] and all_of(browser, "#others")[0].text == "5 images not marked"
    all_of(browser, "#only")[0].click()
    all_of(browser, "#find")[0].send_keys("jm")  # letters of a text are no commands
    assert focused(browser) is None and all_of(browser, "#marked")[0].text == "0 images marked"
    assert console_errors(browser) == []


def test_steps_go_on_over_pages(browser: Any, many: str) -> None:
    browser.get("about:blank")
    set_window(browser, LARGE)
    browser.get(many)
    by_confidence = [f"n{number:05d}" for number in sorted(range(MANY), key=lambda number: number * 7919 % MANY)]
    keys(browser, "j" * (PAGE + 1))
    assert focused(browser) == by_confidence[PAGE] and order(browser) == by_confidence[PAGE : 2 * PAGE]
    keys(browser, "k")
    assert focused(browser) == by_confidence[PAGE - 1]
    box = browser.execute_script(AT, browser.switch_to.active_element)
    assert box[1] >= -1 and box[3] <= LARGE[1] + 1


def test_class_name_in_the_table_leads_to_its_images(page: Any) -> None:
    page.execute_script("arguments[0].click()", all_of(page, "#scores a[href='#class=12']")[0])
    wait(page, "document.getElementById('status').textContent.includes('with dog')")
    assert order(page) == ["b"]


def test_pictures_are_shown_and_have_words(page: Any) -> None:
    page.execute_script("document.querySelectorAll('.card')[4].scrollIntoView()")
    wait(page, "[...document.images].every((img) => img.complete && img.naturalWidth > 0)")
    one = all_of(page, ".card[data-id=b]")[0]
    assert [caption.text for caption in one.find_elements("css selector", "figcaption")][:4] == [
        "photo",
        "mask",
        "truth",
        "difference",
    ]
    alts = [img.get_attribute("alt") for img in one.find_elements("css selector", "img:not(.over)")]
    assert len(alts) == 4 + len(KEYS["b"]) and all(alts) and "mask of b: background, aeroplane, cat, person" in alts
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith("data:") for name in loaded)


def test_table_columns_sort(page: Any, world: Path) -> None:
    def column(place: int) -> list[str]:
        return [cell.text for cell in all_of(page, f"#scores tbody tr > :nth-child({place})")]

    press(page, "#scores thead th:nth-child(2) button")
    shown = [float(text) for text in column(2) if text != "–"]
    assert len(shown) == 3 and shown == sorted(shown, reverse=True) and "–" not in column(2)[:3]
    press(page, "#scores thead th:nth-child(2) button")
    assert [float(text) for text in column(2) if text != "–"] == sorted(shown)
    press(page, "#scores thead th:nth-child(1) button")
    assert column(1) == sorted(["background", *CLASSES])


@pytest.mark.parametrize("size", [LARGE, SMALL])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_and_text_stands_out(page: Any, size: tuple[int, int], dark: bool) -> None:
    set_window(page, size, dark)
    assert page.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [size[0]] * 2
    style = page.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    ink, paper = (sum(int(part) for part in text[4:-1].split(",")) for text in style)
    assert (ink > paper) == dark and abs(ink - paper) > 450


def test_controls_have_names(page: Any) -> None:
    for control in all_of(page, "button, select, input"):
        assert control.accessible_name, control.get_attribute("outerHTML")


def test_a_missing_picture_says_so(browser: Any, job: ReportJob, world: Path, tmp_path: Path) -> None:
    (world / "JPEGImages" / "b.jpg").unlink()
    (world / "cams" / "b.npz").write_bytes(b"PK broken")
    browser.get(write(job, tmp_path / "report.html"))
    browser.execute_script("document.querySelector('.card[data-id=b]').scrollIntoView()")
    wait(browser, "document.querySelectorAll('.card[data-id=b] img[src]').length === 3")
    one = all_of(browser, ".card[data-id=b]")[0]
    assert [img.get_attribute("alt") for img in one.find_elements("css selector", "img:not([src])")] == ["missing"]
    warning = one.find_element("css selector", ".warning").text
    assert "b.jpg: no such image" in warning and "b.npz" in warning


def test_hostile_ids_stay_text(browser: Any, job: ReportJob, tmp_path: Path) -> None:
    browser.get(write(job, tmp_path / "report.html", {"b": HOSTILE}))
    assert HOSTILE in [title.text for title in all_of(browser, ".card h3")]
    assert not all_of(browser, "img[onerror]") and "broken" not in browser.title


def test_without_truth_there_is_no_iou_to_sort_by(browser: Any, job: ReportJob, world: Path, tmp_path: Path) -> None:
    browser.get(write(replace(job, truth=None, truth_needed=False), tmp_path / "report.html"))
    assert order(browser) == sorted("abcde", key=lambda one: kept_share(world, one))
    assert not all_of(browser, "[data-sort=iou]")[0].is_displayed()
    assert "IoU" not in all_of(browser, ".card")[0].text


def test_what_has_no_iou_comes_last_either_way(browser: Any, job: ReportJob, world: Path, tmp_path: Path) -> None:
    (world / "SegmentationClass" / "b.png").unlink()
    by_iou = sorted("acde", key=lambda one: count(world, one).miou())
    browser.get(write(replace(job, truth_needed=False), tmp_path / "report.html"))
    press(browser, "[data-sort=iou]")
    assert order(browser) == [*by_iou, "b"]
    press(browser, "[data-sort=iou]")
    assert order(browser) == [*by_iou[::-1], "b"]


@pytest.fixture
def many(job: ReportJob, tmp_path: Path) -> str:
    """A page of 10,000 images: one image's tiles under ids and shares of their own."""
    findings = Findings.empty(job.spec.num_labels)
    list(measure(job, ["a"], findings, 1))
    first = findings.entries[0]
    findings.entries = [_entry(first, number) for number in range(MANY)]
    pictures = pictures_of(job, first)
    tiles = tiles_of(pictures, job.spec, 112)
    with tempfile.TemporaryFile() as stream:
        spool = Spool(stream)
        for entry in findings.entries:
            spool.add(replace(pictures, entry=entry), tiles)
        write_report(tmp_path / "many.html", Report(job.spec, [], findings, spool, []))
    return (tmp_path / "many.html").as_uri()


def _entry(first: Entry, number: int) -> Entry:
    return replace(first, id=f"n{number:05d}", kept=(number * 7919 % MANY) / MANY, iou=(number * 31 % MANY) / MANY)


def test_ten_thousand_images_stay_light(browser: Any, many: str) -> None:
    browser.get("about:blank")
    set_window(browser, LARGE)
    browser.get(many)
    assert filled(browser) == 0  # the gallery is not near the window yet
    browser.execute_script("document.getElementById('gallery').scrollIntoView()")
    wait(browser, "document.querySelectorAll('img[src]').length > 0")
    by_confidence = sorted(range(MANY), key=lambda number: number * 7919 % MANY)
    assert order(browser) == [f"n{number:05d}" for number in by_confidence[:PAGE]]
    assert len(all_of(browser, "img")) == PAGE * TILES and 0 < filled(browser) < PAGE * TILES
    browser.execute_script("document.querySelectorAll('.pager')[0].querySelector('[data-page=last]').click()")
    last = by_confidence[MANY - (MANY % PAGE or PAGE) :]
    assert order(browser) == [f"n{number:05d}" for number in last]
    press(browser, "[data-sort=iou]")
    by_iou = sorted(range(MANY), key=lambda number: number * 31 % MANY)
    assert order(browser) == [f"n{number:05d}" for number in by_iou[:PAGE]]
    press(browser, ".pager [data-page=next]")
    assert order(browser) == [f"n{number:05d}" for number in by_iou[PAGE : 2 * PAGE]]
    wait(browser, "document.querySelectorAll('img[src]').length > 0")
    assert len(all_of(browser, "img")) == PAGE * TILES
    one = browser.execute_script("return document.querySelector('img[src]').src")
    assert base64.b64decode(one.partition(",")[2])[8:12] == b"WEBP"


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of COCO's 81 labels."""
    folder = tmp_path_factory.mktemp("page")
    findings = Findings.empty(coco14.spec.SPEC.num_labels)
    findings.confusion += np.random.default_rng(0).integers(0, 9, findings.confusion.shape)
    findings.pixels[: coco14.spec.SPEC.num_labels] = 1
    with (folder / "tiles").open("w+b") as stream:
        write_report(folder / "report.html", Report(coco14.spec.SPEC, [], findings, Spool(stream), []))
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("table", ["scores", "confusion"])
def test_heads_of_a_long_table_stay_in_sight(
    browser: Any, many_classes: str, table: str, size: tuple[int, int]
) -> None:
    set_window(browser, size)
    browser.get(many_classes)
    box = browser.find_element("css selector", f"#{table} .wide")
    browser.execute_script("arguments[0].scrollIntoView(); arguments[0].scrollTo(9999, 900)", box)
    left, top, right, bottom = browser.execute_script(AT, box)
    assert bottom - top <= 0.9 * size[1] and right <= size[0]
    head = browser.execute_script(AT, box.find_element("css selector", "thead th:last-child"))
    corner = browser.execute_script(AT, box.find_element("css selector", "thead tr > :first-child"))
    row = browser.execute_script(AT, box.find_element("css selector", "tbody tr:nth-child(40) th"))
    for part in (head, corner, row):
        assert left <= part[0] and part[2] <= right + 1 and top <= part[1] and part[3] <= bottom
    assert head[1] == pytest.approx(top, abs=2) and corner[0] == row[0] == pytest.approx(left, abs=2)
    over = "return document.elementFromPoint(arguments[0], arguments[1]).closest('thead') !== null"
    assert browser.execute_script(over, (head[0] + head[2]) / 2, (head[1] + head[3]) / 2)
    assert browser.execute_script(over, (corner[0] + corner[2]) / 2, (corner[1] + corner[3]) / 2)
