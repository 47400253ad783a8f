"""The journal of an interrupted tagging: what it gives back, and what it does not take."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clip.load import Clip
from dataset.spec import DatasetSpec, Sample
from pipeline.files.tag_journal import Journal, forget_journal, journal_beside
from pipeline.methods.tagclip import TagSettings
from pipeline.stages import tags as stage_tags
from pipeline.stages.tags import Tags

SPEC = DatasetSpec("two", ("cat", "dog"), (("cat",), ("dog",)), ("sky",), True, 0.4)
SCORES = {"a": np.array([0.1, 1 / 3], np.float32), "ü b": np.array([1e-30, 1.0], np.float32)}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return journal_beside(tmp_path / "tags.txt", "how")


def tags() -> Iterator[Tags]:
    for name, scores in SCORES.items():
        yield Tags(name, (1,), scores)
    yield Tags("c", reason="unreadable")


def note_all(journal: Journal) -> None:
    assert [tag.id for tag in journal.noting({}, tags())] == ["a", "ü b", "c"]


def test_scores_come_back_to_the_last_bit(journal: Journal) -> None:
    note_all(journal)
    found = journal.read()
    assert found.keys() == SCORES.keys()
    assert all(found[name].tobytes() == scores.tobytes() for name, scores in SCORES.items())


def test_each_is_on_the_disk_before_it_is_passed_on(journal: Journal) -> None:
    for tag in journal.noting({}, tags()):
        assert tag.scores is None or tag.id in journal.read()


def test_what_was_finished_is_kept_beside_the_new(journal: Journal) -> None:
    old = {"old": np.zeros(2, np.float32)}
    assert len(list(journal.noting(old, tags()))) == 3 and list(journal.read()) == ["old", "a", "ü b"]


def test_half_a_line_and_what_follows_a_damaged_one_are_not_taken(journal: Journal) -> None:
    note_all(journal)
    whole = journal.path.read_text()
    journal.path.write_text(whole[:-3])
    assert list(journal.read()) == ["a"]
    for damaged in ("[]", "{", '["a"]', '["a", {}]', "null", "[" * 100_000):
        journal.path.write_text(whole.replace("[", f"{damaged}\n[", 1))
        assert journal.read() == {}


def test_what_was_made_in_another_way_is_not_taken(journal: Journal) -> None:
    note_all(journal)
    assert Journal(journal.path, "another way").read() == {}
    journal.path.write_bytes(b"\xff\xfe")
    assert journal.read() == {}


def test_it_can_be_forgotten(journal: Journal, tmp_path: Path) -> None:
    note_all(journal)
    forget_journal(tmp_path / "tags.txt")
    forget_journal(tmp_path / "tags.txt")
    assert not list(tmp_path.iterdir())


def test_tagging_takes_what_is_there_and_notes_the_rest(tiny_clip: Clip, world: Path, journal: Journal) -> None:
    samples = [Sample(name, world / "JPEGImages" / f"{name}.jpg", ()) for name in "abc"]
    alone = list(stage_tags.tag_samples(tiny_clip, SPEC, samples, templates="dataset"))
    journal.path.write_text(f"how\n{json.dumps(['b', [0.25, 0.75]])}\n")
    found = list(stage_tags.tag_all(tiny_clip, SPEC, samples, TagSettings(), "dataset", journal))
    assert [tag.outcome.status for tag in found] == ["made", "kept", "made"]
    assert [tag.labels for tag in found] == [alone[0].labels, (1,), alone[2].labels]
    assert found[0].scores is not None and alone[0].scores is not None
    assert found[0].scores.tobytes() == alone[0].scores.tobytes()
    assert sorted(journal.read()) == ["a", "b", "c"]
