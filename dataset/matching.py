"""Images and labels put together: names become class indices, and whatever does not fit is reported.

Errors end the command (exit code 2): an unknown name, or an id that means two things. Warnings drop the image and count
it as failed (exit code 3): an image without labels, or a label without image.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from common.errors import UserError
from dataset.folder import Images
from dataset.ids import IMAGE_SUFFIXES
from dataset.label_source import LabelTable
from dataset.names import hint, name_indices
from dataset.spec import DatasetSpec, Sample
from dataset.text_files import shown

EXAMPLES = 3


@dataclass
class Match:
    """The samples to work on, (id, reason) of what is left out, and lines for people; errors end the command."""

    samples: list[Sample]
    problems: list[tuple[str, str]]
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """Print a line for each warning and error on stderr; the last error is raised, which prints it likewise."""
        for warning in self.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        tell_errors(self.errors)


def tell_errors(errors: Sequence[str]) -> None:
    """Print all errors but the last, which is raised as UserError; nothing when there are none."""
    for error in errors[:-1]:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        raise UserError(errors[-1])


def match(
    spec: DatasetSpec, root: Path, images: Images, table: LabelTable, split: Sequence[str] | None = None
) -> Match:
    """What becomes of the images of a folder (`root`) and the labels of a table.

    With a split only its ids count, in its order; otherwise all images do, in the order of their ids, and a label
    without image is told as such.
    """
    table = _spelled(images, table)
    split = None if split is None else list(dict.fromkeys(images.spelled(split)))
    numbers = {str(index): index for index in range(len(spec.classes))} if table.indices else {}
    known = numbers | name_indices(spec)
    wanted = dict.fromkeys(images.paths if split is None else split)
    problems = [(key, reason) for key, reason in table.problems if split is None or key in wanted]
    found = Match([], [*images.problems, *problems])
    for key in wanted:
        labels = [known[name] for name in table.entries[key].names if name in known] if key in table.entries else []
        if labels and key in images.paths:
            found.samples.append(Sample(key, images.paths[key], tuple(dict.fromkeys(labels))))
    _leave_out(found, root, images, table, split)
    found.errors += [*repeated_images(root, images), *_unknown_names(spec, table, known), *_repeated_labels(table)]
    if not found.samples and not found.errors:
        found.errors = [_nothing_fits(root, images, table, [*problems, *found.problems])]
    return found


def _spelled(images: Images, table: LabelTable) -> LabelTable:
    """The table with its ids as the image files spell them."""
    repeated = dict(zip(images.spelled(table.repeated), table.repeated.values()))
    broken = images.spelled(key for key, _ in table.problems)
    problems = [(key, reason) for key, (_, reason) in zip(broken, table.problems)]
    renamed = LabelTable(table.source, table.indices, {}, repeated, problems)
    for key, entry in zip(images.spelled(table.entries), table.entries.values()):
        renamed.put(key, entry.names, entry.where)
    return renamed


def _leave_out(found: Match, root: Path, images: Images, table: LabelTable, split: Sequence[str] | None) -> None:
    """Add the images without labels and the labels (or ids of the split) without image."""
    done = {key for key, _ in found.problems}
    named = {key for key, entry in table.entries.items() if entry.names} | done
    bare = [key for key in (images.paths if split is None else split) if key in images.paths and key not in named]
    gone = [key for key in (table.entries if split is None else split) if key not in images.paths and key not in done]
    found.problems += [(key, f"no labels for it in {table.source}; add them, or leave it out") for key in bare]
    for key in gone:
        entry = table.entries.get(key)
        place = f"labelled in {table.source}, {entry.where}" if entry else "it is in the split"
        found.problems.append((key, f"no such image in {root}; {place}"))
    found.warnings += _line(bare, "image without labels", "images without labels", f"in {table.source}")
    placed = [f"{key} ({table.entries[key].where})" if key in table.entries else key for key in gone]
    one, several = ("label without image", "labels without images")
    if split is not None:
        one, several = ("id of the split without image", "ids of the split without images")
    found.warnings += _line(placed, one, several, f"in {root}")


def _unknown_names(spec: DatasetSpec, table: LabelTable, known: Mapping[str, int]) -> list[str]:
    """The error line for names that are no classes, each with the place it is first used and what may be meant."""
    unknown = [(name, each.where) for each in table.entries.values() for name in each.names if name not in known]
    if not unknown:
        return []
    first, uses = dict(reversed(unknown)), len(unknown)
    first = {name: first[name] for name, _ in unknown}
    examples = (f"{shown(name)} ({where}; {_meant(name, spec, table)})" for name, where in first.items())
    used = "" if uses == len(first) else f", used {uses} times"
    count = _counted(len(first), "unknown class", "unknown classes")
    return [f"{table.source}: {count}{used}: {_examples(examples, len(first))}"]


def _meant(name: str, spec: DatasetSpec, table: LabelTable) -> str:
    if table.indices and name.isdigit():
        return f"class indices run from 0 to {len(spec.classes) - 1}"
    if name.endswith(IMAGE_SUFFIXES):
        return "image names with spaces go in quotes"
    return hint(name, spec.classes)


def repeated_images(root: Path, images: Images) -> list[str]:
    """The error line for ids that several image files share."""
    reason = "results are named after the id: rename or remove all but one"
    return _repeated(f"{root}: {_counted(len(images.twice), 'id')} of several images", images.twice, reason)


def _repeated_labels(table: LabelTable) -> list[str]:
    count = _counted(len(table.repeated), "duplicate id")
    return _repeated(f"{table.source}: {count}", table.repeated, "put all labels of an image in one place")


def _repeated(what: str, places: Mapping[str, Sequence[str]], reason: str) -> list[str]:
    each = [f"{key} ({_examples(where, len(where))})" for key, where in places.items()]
    return [f"{what}: {_examples(each, len(each))}; {reason}"] if each else []


def _nothing_fits(root: Path, images: Images, table: LabelTable, problems: Sequence[tuple[str, str]]) -> str:
    """The error line for a run without a single usable image."""
    if images.paths and table.entries and not images.paths.keys() & table.entries.keys():
        label, image = next(iter(table.entries)), next(iter(images.paths))
        return (
            f"{table.source}: none of its labels fits an image of {root}; "
            f"labels are for ids such as {shown(label)}, images have ids such as {shown(image)}"
        )
    first = f"; the first, {problems[0][0]}: {problems[0][1]}" if problems else ""
    return f"{root}: no image can be used{first}"


def _line(keys: Sequence[str], one: str, several: str, where: str) -> list[str]:
    return [f"{_counted(len(keys), one, several)} {where}, left out: {_examples(keys, len(keys))}"] if keys else []


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def _examples(items: Iterable[str], count: int) -> str:
    more = f" and {count - EXAMPLES} more" if count > EXAMPLES else ""
    return f"{', '.join(islice(items, EXAMPLES))}{more}"
