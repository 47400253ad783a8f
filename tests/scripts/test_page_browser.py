"""The page in a real browser, on the toy world: examples, sliders, mistakes, several people, the mask as a download."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset.mask_png import read_mask
from scripts.page import EXAMPLES
from tests.browser import console_errors, open_browser, set_window
from tests.support import ROOT, Command, photo

pytestmark = pytest.mark.slow  # a browser, and gradio's start

LARGE, SMALL = (1440, 900), (390, 844)
OF_GRADIO = ("Method not implemented.", "AbortError", "Connection errored out.")  # on uploads, and when a page is left
CHANGE = """
const input = arguments[0];
Object.getOwnPropertyDescriptor(Object.getPrototypeOf(input), 'value').set.call(input, arguments[1]);
input.dispatchEvent(new Event('input', {bubbles: true}));
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running page, and the folder of its temporary files; both are gone at the end."""
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed: pip install -r requirements-page.txt")
    folder = tmp_path_factory.mktemp("temporary")
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "GRADIO_SHARE": "True"}
    command = [sys.executable, "-m", "scripts.page", "--port", "0", "--device", "cpu"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            address = next((found[0] for line in lines if (found := re.search(r"http://[\d.:]+/", line))), None)
            assert address is not None and address.startswith("http://127.0.0.1:")
            yield address, folder
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130 and process.stdout.read() == "page closed\n"
            errors.seek(0)
            assert "Traceback" not in errors.read() and not list(folder.iterdir())
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser(served: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser: Any, served: tuple[str, Path]) -> Iterator[Any]:
    set_window(browser, LARGE)
    browser.get(served[0])
    wait(lambda: one(browser, "#moved"))
    wait(lambda: len(all_of(browser, ".gallery-item")) == EXAMPLES)
    yield browser
    assert [message for message in console_errors(browser) if not any(own in message for own in OF_GRADIO)] == []


def all_of(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def one(driver: Any, selector: str) -> Any:
    return next(iter(all_of(driver, selector)), None)


def wait(condition: Callable[[], Any]) -> Any:
    """What the condition gives once it is something; stale elements count as nothing."""
    from selenium.common.exceptions import StaleElementReferenceException

    for _ in range(2400):
        try:
            if found := condition():
                return found
        except StaleElementReferenceException:
            pass
        time.sleep(0.05)
    raise AssertionError("nothing came")


def picture(driver: Any, caption: str) -> str:
    """The address of a picture, which holds all of it; empty where there is none."""
    figures = (figure for figure in all_of(driver, ".stages figure") if figure.text.startswith(caption))
    return next((figure.find_element("css selector", "img").get_attribute("src") for figure in figures), "")


def shares(driver: Any) -> dict[str, str]:
    rows = driver.execute_script(
        "return [...document.querySelectorAll('.stages tbody tr')].map((row) => [...row.cells].map((c) => c.innerText))"
    )
    return {name.strip(): share for name, share, _ in rows}


def problem(driver: Any) -> str:
    found = one(driver, "[role=alert].problem")
    return found.text if found else ""


def press_example(driver: Any, number: int) -> None:
    before = picture(driver, "photo")
    all_of(driver, ".gallery-item")[number].click()
    wait(lambda: picture(driver, "photo") not in ("", before))


def named(driver: Any, selector: str, label: str) -> Any:
    """The control below a label."""
    return next(item for item in all_of(driver, selector) if item.accessible_name.startswith(label))


def button(driver: Any, text: str) -> Any:
    return next(item for item in all_of(driver, "button") if item.text == text)


def move(driver: Any, label: str, value: float) -> None:
    driver.execute_script(CHANGE, named(driver, "input[type=range]", f"range slider for {label}"), str(value))


def words(driver: Any, text: str) -> None:
    driver.execute_script(CHANGE, named(driver, "textarea, input[type=text]", "Words"), text)


def test_an_example_gives_the_stages_and_sliders_act_at_once(page: Any) -> None:
    press_example(page, 1)
    captions = [figure.text for figure in all_of(page, ".stages figure")]
    assert captions[0] == "photo" and captions[1:3] == ["CAM: all words", "after the affinity: all words"]
    assert len(captions) == 6 and set(shares(page)) == {"background", "ball", "house", "not sure (255)"}
    before = {caption: picture(page, caption) for caption in captions}
    move(page, "Confidence", 0)
    wait(lambda: "not sure (255)" not in shares(page))
    changed = {caption for caption in captions if picture(page, caption) != before[caption]}
    assert changed == {"mask (white: not sure, 255)", "mask over the photo"}
    assert picture(page, "mask (white") == picture(page, "after the CRF")
    move(page, "Box threshold", 0.9)
    wait(lambda: picture(page, "after the affinity") != before["after the affinity: all words"])
    assert picture(page, "CAM") == before["CAM: all words"]


def test_another_method_has_its_own_sliders(page: Any) -> None:
    press_example(page, 2)
    before = picture(page, "CAM")
    box = named(page, "input[role=listbox], input[role=combobox]", "Method")
    box.click()
    wait(lambda: [item for item in all_of(page, "[role=option]") if item.text.strip("✓ \n") == "sclip"])[0].click()
    wait(lambda: picture(page, "CAM") not in ("", before))
    shown = [item.accessible_name for item in all_of(page, "input[type=range]") if item.is_displayed()]
    assert [name.removeprefix("range slider for ") for name in shown] == [
        "Confidence",
        "Least probability",
        "Least share",
    ]


def upload(driver: Any, path: Path) -> None:
    driver.execute_script("arguments[0].style.display = 'block'", one(driver, "input[type=file]"))
    one(driver, "input[type=file]").send_keys(str(path))
    wait(lambda: one(driver, "[data-testid=image] img, .image-frame img, .image-container img"))


def test_the_mask_is_what_the_command_writes(page: Any, command: Command, tmp_path: Path) -> None:
    Image.fromarray(photo((90, 120), 3)).resize((700, 525)).save(tmp_path / "my photo.png")
    upload(page, tmp_path / "my photo.png")
    words(page, "ball, tree")
    button(page, "Make the mask").click()
    wait(lambda: picture(page, "photo"))
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path / "got"), "eventsEnabled": False}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    button(page, "Download the mask (PNG)").click()
    (file,) = wait(lambda: list((tmp_path / "got").glob("*.png")))
    ended = command("scripts.segment", tmp_path / "my photo.png", "--labels", "ball", "tree", "--out", tmp_path / "out")
    assert ended.code == 0 and Image.open(file).mode == "P" and Image.open(file).size == (700, 525)
    assert np.array_equal(read_mask(file), read_mask(tmp_path / "out" / "my photo_mask.png"))


def test_mistakes_are_lines_on_the_page(page: Any, tmp_path: Path) -> None:
    press = button(page, "Make the mask").click
    press()
    assert wait(lambda: problem(page)) == "no photo: choose one, or press an example"
    (tmp_path / "notes.jpg").write_text("a text file")
    upload(page, tmp_path / "notes.jpg")
    for typed, expected in (
        ("", "no words: say what the photo shows, such as house, car"),
        ("hose", "hose: not a class of toyworld; did you mean 'house'?"),
        (", ".join(f"word{number}" for number in range(50)), "50 words: at most 20 at once"),
        ("house", "notes.jpg: not a readable image"),
    ):
        before = problem(page)
        words(page, typed)
        press()
        assert wait(lambda: problem(page) != before and problem(page)).startswith(expected)  # noqa: B023
    assert not all_of(page, ".stages")
    press_example(page, 0)
    assert problem(page) == ""


def test_a_huge_photo_is_refused_in_one_line(page: Any, tmp_path: Path) -> None:
    Image.new("1", (12_000, 9_000)).save(tmp_path / "huge.png")
    upload(page, tmp_path / "huge.png")
    words(page, "house")
    button(page, "Make the mask").click()
    assert wait(lambda: problem(page)).startswith("huge.png: 12000 x 9000 pixels, at most 100 million")


def test_people_in_two_windows_see_their_own(page: Any) -> None:
    address, first = page.current_url, page.current_window_handle
    press_example(page, 1)
    page.switch_to.new_window("tab")
    page.get(address)
    wait(lambda: len(all_of(page, ".gallery-item")) == EXAMPLES)
    press_example(page, 2)
    assert set(shares(page)) <= {"background", "tree", "not sure (255)"}
    page.close()
    page.switch_to.window(first)
    move(page, "Confidence", 0.5)
    wait(lambda: "ball" in shares(page))


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_and_nothing_comes_from_elsewhere(page: Any, dark: bool) -> None:
    for size in (LARGE, SMALL):
        set_window(page, size, dark)
        page.refresh()
        wait(lambda: len(all_of(page, ".gallery-item")) == EXAMPLES)
        press_example(page, 1)
        assert page.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [size[0]] * 2
        widths = page.execute_script(
            "return [...document.querySelectorAll('.stages img')].map((one) => one.getBoundingClientRect().width)"
        )
        assert min(widths) > 100
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    origin = page.execute_script("return location.origin")
    assert loaded and all(name.startswith((origin, "data:", "blob:")) for name in loaded)
