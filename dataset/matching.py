"""Images matched with labels: names become class indices, and what does not fit is reported.

Errors end the command (exit code 2): an unknown name, or an id that means two things. Warnings drop the image and count
it as failed (exit code 3): an image without labels, or a label without image.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from dataset.folder import Images
from dataset.ids import IMAGE_SUFFIXES
from dataset.label_source import Entry, LabelTable
from dataset.labels import WORDS
from dataset.names import ClassNames, hint
from dataset.references import find_references
from dataset.spec import DatasetSpec, Sample
from dataset.text_files import shown

EXAMPLES = 3


@dataclass
class Match:
    """The samples, (id, reason) of images that are left out, and lines for people; errors end the command."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def print_lines(self) -> None:
        """Print a line for each warning and error on stderr; the last error is raised instead."""
        for warning in self.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print_errors(self.errors)


def print_errors(errors: Sequence[str]) -> None:
    """Print all errors but the last, which is raised as UserError; nothing when there are none."""
    for error in errors[:-1]:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        raise UserError(errors[-1])


def match(
    spec: DatasetSpec, root: Path, images: Images, table: LabelTable, split: Sequence[str] | None = None
) -> Match:
    """Match the images of a folder (`root`) with the labels of a table.

    With a split only its ids count, in its order; otherwise all images do, in the order of their ids, and
    labels without image are reported.
    """
    labels = _Labels(spec, images, table)
    ids = dict.fromkeys(images.paths if split is None else split)
    problems = [(key, reason) for key, reason in labels.problems if split is None or key in ids]
    result = Match(problems=[*images.problems, *problems])
    for key in ids:
        entry = labels.entries.get(key)
        if entry is not None and key in images.paths:
            indices = (labels.index(name) for name in entry.names)
            known = tuple(dict.fromkeys(index for index in indices if index is not None))
            if known or (not entry.names and spec.has_background):
                result.samples.append(Sample(key, images.paths[key], known))
            elif not entry.names:
                reason = (
                    f"shows none of the classes by {table.source}, {entry.where}, and {spec.name} has no background"
                )
                result.problems.append((key, reason))
    _leave_out(result, root, images, labels, split)
    result.warnings += labels.warnings()
    result.errors += [
        *repeated_images(root, images),
        *labels.unknown_names(),
        *_repeated_labels(table, labels, None if split is None else ids),
    ]
    if not result.samples and not result.errors:
        result.errors = [_no_sample(root, images, table, labels, [*problems, *result.problems])]
    return result


class _Labels:
    """The labels of a table by id of the images.

    entries    by id
    unmatched  the references that fit no image, with their entries
    problems   (id, reason); ids without image stay as they are
    """

    def __init__(self, spec: DatasetSpec, images: Images, table: LabelTable) -> None:
        self.spec, self.table, self.named = spec, table, ClassNames(spec)
        keys = dict.fromkeys((*table.entries, *(key for key, _ in table.problems)))
        self.found = find_references(images.all_paths, keys, table.are_ids)
        self.entries, self.places = dict[str, Entry](), dict[str, list[str]]()
        self.unmatched = {key: entry for key, entry in table.entries.items() if key not in self.found.ids}
        for rivals in self.found.rivals.values():
            for key in rivals:
                self.unmatched.pop(key, None)
        for key, entry in table.entries.items():
            image = self.found.ids.get(key)
            if image is not None:
                self.places.setdefault(image, []).append(entry.where)
                self.entries.setdefault(image, entry)
        self.problems = [(self.found.ids.get(key, key), reason) for key, reason in table.problems]

    def index(self, name: str) -> int | None:
        """The index of a class by its name or, where numbers are indices, by its number."""
        index = self.named.get(name)
        if index is None and self.table.indices and name.isdecimal() and len(name) < 9:
            return int(name) if int(name) < len(self.spec.classes) else None
        return index

    def warnings(self) -> list[str]:
        """What was not said by the file, but taken for granted."""
        lines = []
        by_name = [key for key in self.found.by_name if key in self.table.entries]
        if by_name:
            example = f"{by_name[0]} for {self.found.ids[by_name[0]]}"
            lines.append(f"{_counted(len(by_name), 'label')} in {self.table.source} matched by file name: {example}")
        numbers = [name for entry in self.entries.values() for name in entry.names if self.named.get(name) is None]
        numbers = [name for name in dict.fromkeys(numbers) if self.index(name) is not None]
        if numbers and self.table.form != WORDS:
            example = f"{numbers[0]} is {self.spec.classes[int(numbers[0])]}"
            lines.append(f"numbers in {self.table.source} are taken as indices of the classes from 0 on: {example}")
        return lines

    def unknown_names(self) -> list[str]:
        """The error line for names that are no classes, each with its first place and a suggestion."""
        places: dict[str, list[str]] = {}
        for entry in self.table.entries.values():
            for name in entry.names:
                if self.index(name) is None:
                    places.setdefault(name, []).append(entry.where)
        if not places:
            return []
        uses = sum(map(len, places.values()))
        count = _counted(len(places), "unknown class", "unknown classes")
        count += "" if uses == len(places) else f", used {uses} times"
        names = list(places)
        texts = [f"{shown(name)} ({places[name][0]}; {self._hint(name)})" for name in names[:EXAMPLES]]
        return [f"{self.table.source}: {count}: {_examples([*texts, *names[EXAMPLES:]])}"]

    def _hint(self, name: str) -> str:
        if self.table.indices and name.isdigit():
            return f"class indices run from 0 to {len(self.spec.classes) - 1}"
        if name.endswith(IMAGE_SUFFIXES):
            return "image names with spaces go in quotes"
        return hint(name, self.spec.classes)


def _repeated_labels(table: LabelTable, labels: _Labels, ids: Mapping[str, None] | None) -> list[str]:
    """The error line for images that are labelled in several places."""
    places = {labels.found.ids.get(key, key): list(where) for key, where in table.repeated.items()}
    places |= {key: where for key, where in labels.places.items() if len(where) > 1}
    for key, rivals in labels.found.rivals.items():
        if ids is None or key in ids:
            places[key] = [f"{rival}, {table.entries[rival].where}" for rival in rivals if rival in table.entries]
    what = f"{table.source}: {_counted(len(places), 'duplicate id')}"
    return _repeated(what, places, "put all labels of an image in one place")


def _leave_out(result: Match, root: Path, images: Images, labels: _Labels, split: Sequence[str] | None) -> None:
    """Add problems and warnings for images without labels, and for labels (or ids of the split) without image."""
    table, unclear = labels.table, labels.found.unclear
    done = {key for key, _ in result.problems}
    labelled = labels.entries.keys() | labels.found.rivals.keys() | done
    bare = [key for key in (images.paths if split is None else split) if key in images.paths and key not in labelled]
    known = done | images.paths.keys()
    missing = [key for key in (labels.unmatched if split is None else split) if key not in known]
    result.problems += [(key, f"no labels for it in {table.source}; add them, or leave it out") for key in bare]
    for key in missing:
        entry = table.entries.get(key)
        source = f"labelled in {table.source}, {entry.where}" if entry else "it is in the split"
        fits = f"; it fits {_examples(unclear[key])} equally well: write its folder" if key in unclear else ""
        result.problems.append((key, f"no such image in {root}; {source}{fits}"))
    examples = [f"{key} ({table.entries[key].where})" if key in table.entries else key for key in missing]
    names = ("label without image", "labels without images")
    if split is not None:
        names = ("id of the split without image", "ids of the split without images")
    for items, (one, several), where in (
        (bare, ("image without labels", "images without labels"), table.source),
        (examples, names, root),
    ):
        if items:
            result.warnings.append(f"{_counted(len(items), one, several)} in {where}, left out: {_examples(items)}")


def repeated_images(root: Path, images: Images) -> list[str]:
    """The error line for ids that several image files share."""
    reason = "results are named after the id: rename or remove all but one"
    return _repeated(f"{root}: {_counted(len(images.twice), 'id')} of several images", images.twice, reason)


def _repeated(what: str, places: Mapping[str, Sequence[str]], reason: str) -> list[str]:
    texts = [f"{key} ({_examples(where)})" for key, where in places.items()]
    return [f"{what}: {_examples(texts)}; {reason}"] if texts else []


def _no_sample(
    root: Path, images: Images, table: LabelTable, labels: _Labels, problems: Sequence[tuple[str, str]]
) -> str:
    """The error line for a run without a single usable image."""
    if images.paths and table.entries and not labels.entries:
        label, image = next(iter(table.entries)), next(iter(images.paths))
        return (
            f"{table.source}: none of its labels fits an image of {root}; "
            f"labels are for ids such as {shown(label)}, images have ids such as {shown(image)}"
        )
    first = f"; the first, {problems[0][0]}: {problems[0][1]}" if problems else ""
    return f"{root}: no image can be used{first}"


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def _examples(items: Sequence[str]) -> str:
    more = f" and {len(items) - EXAMPLES} more" if len(items) > EXAMPLES else ""
    return f"{', '.join(items[:EXAMPLES])}{more}"
