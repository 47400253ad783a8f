"""The journal of an interrupted tagging: what it gives back, and what it does not take."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.files.tag_journal import Entry, Journal, forget_journal, journal_beside

ENTRIES = {
    "a": Entry("12-ab", np.array([0.1, 1 / 3], np.float32)),
    "ü b": Entry("7-cd", np.array([1e-30, 1.0], np.float32)),
}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """One with both entries; each was on the disk when `add` returned."""
    journal = journal_beside(tmp_path / "tags.txt", "how")
    with journal.adding({}) as add:
        for key, entry in ENTRIES.items():
            add(key, entry)
            assert key in journal.read()
    return journal


def test_scores_come_back_to_the_last_bit(journal: Journal) -> None:
    found = journal.read()
    assert found.keys() == ENTRIES.keys()
    for key, entry in ENTRIES.items():
        assert found[key].scores.tobytes() == entry.scores.tobytes() and found[key].source == entry.source


def test_what_was_finished_is_kept_beside_the_new(journal: Journal) -> None:
    with journal.adding({"old": ENTRIES["a"]}) as add:
        add("new", ENTRIES["ü b"])
    assert list(journal.read()) == ["old", "new"]


def test_half_a_line_and_what_follows_a_damaged_one_are_not_taken(journal: Journal) -> None:
    whole = journal.path.read_text()
    journal.path.write_text(whole[:-3])
    assert list(journal.read()) == ["a"]
    for damaged in ("[]", "{", '["a"]', '["a", "1-a", {}]', '["a", 5, [1.0]]', "null", "[" * 100_000):
        journal.path.write_text(whole.replace("[", f"{damaged}\n[", 1))
        assert journal.read() == {}


def test_what_was_made_in_another_way_is_not_taken(journal: Journal) -> None:
    assert Journal(journal.path, "another way").read() == {}
    journal.path.write_bytes(b"\xff\xfe")
    assert journal.read() == {}


def test_it_can_be_forgotten(journal: Journal, tmp_path: Path) -> None:
    forget_journal(tmp_path / "tags.txt")
    forget_journal(tmp_path / "tags.txt")
    assert not list(tmp_path.iterdir())
