"""The page: its numbers against pixels counted one at a time, its tiles against the masks, and what it may load."""

import base64
import hashlib
import io
import json
import re
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lxml import html
from PIL import Image

from dataset.mask_png import read_mask
from dataset.palettes import voc_palette
from report.gallery import SMALLEST, Spool, draw, pictures_of, tile_size
from report.measure import Entry, Findings, ReportJob, least_certain, measure
from report.page import LISTED_PROBLEMS, Report, write_report
from report.pictures import difference
from tests.report_world import KEYS, add_outputs, count, kept_share, parsed, shown, texts
from voc12.spec import SPEC

HOSTILE = "</script><!--<b onclick=alert(1)>&amp;'\""


@pytest.fixture
def job(world: Path) -> ReportJob:
    return add_outputs(world)


def measured(job: ReportJob, ids: str = "abcde") -> Findings:
    findings = Findings.empty(job.spec.num_labels)
    assert {outcome.status for outcome in measure(job, list(ids), findings, 2)} == {"made"}
    return findings


def page_of(job: ReportJob, out: Path, failures: list[tuple[str, str]] | None = None) -> html.HtmlElement:
    findings = measured(job)
    with tempfile.TemporaryFile() as stream:
        spool = Spool(stream)
        list(draw(job, least_certain(findings.entries, 99), spool, 2))
        write_report(out, Report(job.spec, ["made here"], findings, spool, failures or []))
    return parsed(out)


@pytest.fixture
def page(job: ReportJob, tmp_path: Path) -> html.HtmlElement:
    return page_of(job, tmp_path / "report.html")


def records(page: html.HtmlElement) -> list[dict]:
    return json.loads(page.get_element_by_id("data").text)["images"]


def test_table_holds_the_counted_scores(world: Path, page: html.HtmlElement) -> None:
    counted = count(world, "abcde")
    rows = {texts([row[0]])[0]: texts(row[1:]) for row in page.cssselect("#scores tbody tr")}
    assert list(rows) == list(SPEC.label_names)
    for label, name in enumerate(SPEC.label_names):
        true, given, right = counted.true(label), counted.given(label), counted.pairs[label, label]
        assert rows[name] == [
            shown(counted.iou(label)),
            shown(right / given if given else None),
            shown(right / true if true else None),
            shown(counted.kept(label) / true if true else None),
            "5" if true else "0",
            shown(true / counted.total()),
        ]
    facts = dict(zip(texts(page.cssselect(".facts dt")), texts(page.cssselect(".facts dd"))))
    assert facts["images"] == "5"
    assert facts["mean IoU"] == f"{shown(counted.miou())} %"
    assert facts["pixel accuracy"] == f"{shown(counted.right() / counted.total())} %"
    assert facts["coverage"] == f"{shown(counted.kept() / counted.total())} %"
    assert facts["precision of what is kept"] == f"{shown(counted.right() / counted.kept())} %"


def test_confusion_matrix_shows_where_each_class_went(world: Path, page: html.HtmlElement) -> None:
    counted = count(world, "abcde")
    columns = texts(page.cssselect("table.confusion thead th"))
    assert columns == [*SPEC.label_names, "255"]
    rows = {texts([row[0]])[0]: texts(row[1:]) for row in page.cssselect("table.confusion tbody tr")}
    for label, name in enumerate(SPEC.label_names):
        pairs = [counted.pairs[label, given] for given in (*range(21), 255)]
        expected = [f"{100 * pair / sum(pairs):.0f}" if pair else "" for pair in pairs]
        assert rows[name] == expected
    wrong = {pair: n for pair, n in counted.pairs.items() if pair[1] not in (255, pair[0])}
    true, given = max(wrong, key=lambda pair: wrong[pair])
    first = texts(page.cssselect("#scores ol li"))[0]
    assert first.startswith(f"{SPEC.label_names[true]} taken for {SPEC.label_names[given]}: ")


def test_class_chart_has_a_point_for_each_class_with_both_shares(world: Path, page: html.HtmlElement) -> None:
    counted = count(world, "abcde")
    expected = {
        f"{SPEC.label_names[label]}: coverage {shown(counted.kept(label) / counted.true(label))} %, "
        f"precision {shown(counted.pairs[label, label] / counted.given(label))} %"
        for label in (0, 1, 15)
    }
    assert set(texts(page.cssselect("circle.dot title"))) == expected


def test_image_chart_holds_every_image_once(page: html.HtmlElement) -> None:
    counts = [int(text.split()[0]) for text in texts(page.cssselect("rect.cell title"))]
    assert sum(counts) == 5


def test_groups_are_shown_where_they_were_kept(job: ReportJob, tmp_path: Path) -> None:
    """In the palette's colours behind the background's, as the last tile of the image."""
    path = job.cams / "b.npz"
    with np.load(path) as arrays:
        content = dict(arrays)
    groups = np.random.default_rng(0).integers(0, 8, (12, 15)).astype(np.uint8)
    np.savez(path, **content, groups=groups)
    page = page_of(job, tmp_path / "report.html")
    (record,) = (record for record in records(page) if record["id"] == "b")
    assert [one["groups"] for one in records(page)].count(True) == 1 and record["groups"]
    tiles = page.get_element_by_id(f"tiles-{record['index']}").text.split()
    assert len(tiles) == 4 + len(record["cams"]) + 1
    with Image.open(io.BytesIO(base64.b64decode(tiles[-1]))) as tile:
        assert np.array_equal(np.asarray(tile.convert("RGB")), voc_palette()[groups + 1])


def test_records_hold_each_images_own_numbers(world: Path, page: html.HtmlElement) -> None:
    found = records(page)
    assert [record["id"] for record in found] == sorted("abcde", key=lambda one: kept_share(world, one))
    for record in found:
        counted = count(world, record["id"])
        assert record["kept"] == pytest.approx(kept_share(world, record["id"]), abs=1e-6)
        assert record["iou"] == pytest.approx(counted.miou(), abs=1e-6)
        assert dict(record["labels"]) == {
            label: pytest.approx(counted.iou(label), abs=1e-6) for label, _ in record["labels"]
        }
        assert {label - 1 for label in record["cams"]} == set(KEYS[record["id"]])


def test_tiles_hold_the_masks_in_vocs_colours(world: Path, page: html.HtmlElement) -> None:
    palette = voc_palette()
    palette[255] = 255
    for record in records(page):
        block = page.get_element_by_id(f"tiles-{record['index']}").text.split(" ")
        assert len(block) == 4 + len(KEYS[record["id"]])
        photo, mask, truth, wrong, *heats = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(tile)))) for tile in block
        )
        own = read_mask(world / "masks" / f"{record['id']}.png")
        true = read_mask(world / "SegmentationClass" / f"{record['id']}.png")
        assert np.array_equal(mask, palette[own]) and np.array_equal(truth, palette[true])
        assert np.array_equal(wrong, difference(own, true, 21))
        assert photo.shape == mask.shape == (record["height"], record["width"], 3)
        assert all(max(heat.shape) == 32 for heat in heats)


def test_page_may_run_its_own_script_and_fetch_nothing(tmp_path: Path, page: html.HtmlElement) -> None:
    policy = page.cssselect("meta[http-equiv]")[0].get("content")
    directives = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
    script = [one for one in page.cssselect("script") if one.get("type") is None]
    style = page.cssselect("style")
    assert len(script) == len(style) == 1
    for name, text in (("script-src", script[0].text), ("style-src", style[0].text)):
        assert directives[name] == [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"]
    assert directives["default-src"] == ["'none'"] and directives["img-src"] == ["data:"]
    assert not page.xpath("//@src | //link | //@style | //@onclick")
    assert all(link.startswith("#") for link in page.xpath("//@href"))
    assert "http" not in re.sub(r'<script type="text/plain".*', "", (tmp_path / "report.html").read_text()).replace(
        "http-equiv", ""
    )


def test_names_are_text_whatever_they_hold(job: ReportJob, tmp_path: Path) -> None:
    spec = replace(job.spec, classes=(HOSTILE, *job.spec.classes[1:]), name=HOSTILE)
    page = page_of(replace(job, spec=spec), tmp_path / "report.html", [(HOSTILE, HOSTILE), ("\udcff", "not UTF-8")])
    assert not page.xpath("//*[@onclick]")
    assert texts(page.cssselect("#problems tbody th"))[0] == texts(page.cssselect("#problems tbody td"))[0] == HOSTILE
    assert HOSTILE in texts(page.cssselect("#scores tbody th"))
    assert json.loads(page.get_element_by_id("data").text)["labels"][1]["name"] == HOSTILE


def test_without_truth_the_page_says_so_and_keeps_the_gallery(job: ReportJob, world: Path, tmp_path: Path) -> None:
    page = page_of(replace(job, truth=None, truth_needed=False), tmp_path / "report.html")
    assert "no ground truth" in texts(page.cssselect("#scores p"))[0]
    assert not page.cssselect("#confusion") and "mean IoU" not in texts(page.cssselect(".facts dt"))
    masks = {one: read_mask(world / "masks" / f"{one}.png") for one in "abcde"}
    cat = sum((mask == 8).sum() for mask in masks.values()) / sum(mask.size for mask in masks.values())
    rows = {texts([row[0]])[0]: texts(row[1:]) for row in page.cssselect("#scores tbody tr")}
    assert rows["cat"] == [str(sum((mask == 8).any() for mask in masks.values())), shown(cat)]
    assert all(record["iou"] is None and not record["truth"] for record in records(page))
    assert page.get_element_by_id("tiles-0").text.split(" ")[2:4] == ["-", "-"]


def test_images_without_truth_are_shown_unscored_where_it_is_not_needed(
    job: ReportJob, world: Path, tmp_path: Path
) -> None:
    (world / "SegmentationClass" / "b.png").unlink()
    page = page_of(replace(job, truth_needed=False), tmp_path / "report.html")
    assert "1 images have no ground truth" in texts(page.cssselect("#scores p"))[0]
    assert {record["id"] for record in records(page) if record["iou"] is None} == {"b"}
    facts = dict(zip(texts(page.cssselect(".facts dt")), texts(page.cssselect(".facts dd"))))
    assert facts["mean IoU"] == f"{shown(count(world, 'acde').miou())} %"


def test_truth_that_is_255_all_over_gives_no_score(job: ReportJob, world: Path, tmp_path: Path) -> None:
    for one in "abcde":
        path = world / "SegmentationClass" / f"{one}.png"
        Image.fromarray(np.full_like(read_mask(path), 255)).save(path)
    page = page_of(job, tmp_path / "report.html")
    assert all(record["iou"] is None and record["truth"] for record in records(page))


def test_problems_are_listed_up_to_a_bound(job: ReportJob, tmp_path: Path) -> None:
    failures = [(f"x{number}", "gone") for number in range(LISTED_PROBLEMS + 5)]
    page = page_of(job, tmp_path / "report.html", failures)
    assert len(page.cssselect("#problems tbody tr")) == LISTED_PROBLEMS
    assert texts(page.cssselect("#problems > p")) == ["... and 5 more"]
    assert f"{LISTED_PROBLEMS + 5:,} images" in texts(page.cssselect("header .warning"))[0]


def test_memory_does_not_grow_with_the_tiles(job: ReportJob, tmp_path: Path) -> None:
    findings = measured(job)
    tile = [bytes(30_000)]
    with tempfile.TemporaryFile() as stream:
        spool = Spool(stream)
        pictures = pictures_of(job, findings.entries[0])
        tracemalloc.start()
        for _ in range(1_000):
            spool.add(pictures, tile)
        write_report(tmp_path / "report.html", Report(job.spec, [], findings, spool, []))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "report.html").stat().st_size > 40_000_000
    assert peak < 8_000_000


def test_tiles_shrink_as_images_grow_in_number() -> None:
    sizes = [tile_size(count) for count in (1, 300, 301, 1_500, 4_000, 10_000, 10_001, 20_000, 100_000)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 256 and sizes[-1] == SMALLEST


def test_least_certain_come_first_and_are_bounded() -> None:
    entries = [Entry(one, kept, None, None, None, ()) for one, kept in (("b", 0.5), ("c", 0.1), ("a", 0.5))]
    assert [entry.id for entry in least_certain(entries, 2)] == ["c", "a"]
