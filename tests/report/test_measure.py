"""What the report measures: masks of one way, of the photos that there are now."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from common.provenance import source_of
from dataset.mask_png import read_mask, write_mask
from report.measure import Findings, ReportJob, measure
from tests.report_world import add_outputs
from tests.support import replace_photo

IDS = list("abcde")


@pytest.fixture
def job(world: Path) -> ReportJob:
    return replace(add_outputs(world), truth_needed=False)


def record(job: ReportJob, image_id: str, **settings: object) -> None:
    """Give the mask of an image a record that names its photo."""
    path = job.masks / f"{image_id}.png"
    source = source_of(job.images / f"{image_id}.jpg")
    write_mask(path, read_mask(path), made_by=json.dumps({"source": source, **settings}))


def test_the_mask_of_a_replaced_photo_is_left_out_and_named(job: ReportJob) -> None:
    for image_id in "ab":
        record(job, image_id)
    replace_photo(job.images / "b.jpg")
    outcomes = list(measure(job, IDS, Findings.empty(21), 1))
    assert [outcome.id for outcome in outcomes if outcome.status == "failed"] == ["b"]
    assert "b.png: made from another photo than" in outcomes[1].reason


def test_masks_made_in_different_ways_are_refused(job: ReportJob) -> None:
    record(job, "a", confidence=0.95)
    record(job, "c", confidence=0.5)
    with pytest.raises(UserError, match=r"a\.png and .*c\.png were made in different ways: confidence 0\.95"):
        list(measure(job, IDS, Findings.empty(21), 1))
