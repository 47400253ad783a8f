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
from dataset.label_source import LabelTable
from dataset.names import hint, name_indices
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
    table = _spelled_as_files(images, table)
    split = None if split is None else list(dict.fromkeys(images.spelled(split)))
    numbers = {str(index): index for index in range(len(spec.classes))} if table.indices else {}
    indices = numbers | name_indices(spec)
    ids = dict.fromkeys(images.paths if split is None else split)
    problems = [(key, reason) for key, reason in table.problems if split is None or key in ids]
    result = Match(problems=[*images.problems, *problems])
    for key in ids:
        names = table.entries[key].names if key in table.entries else ()
        labels = tuple(dict.fromkeys(indices[name] for name in names if name in indices))
        if labels and key in images.paths:
            result.samples.append(Sample(key, images.paths[key], labels))
    _leave_out(result, root, images, table, split)
    labels_twice = f"{table.source}: {_counted(len(table.repeated), 'duplicate id')}"
    result.errors += [
        *repeated_images(root, images),
        *_unknown_names(spec, table, indices),
        *_repeated(labels_twice, table.repeated, "put all labels of an image in one place"),
    ]
    if not result.samples and not result.errors:
        result.errors = [_no_sample(root, images, table, [*problems, *result.problems])]
    return result


def _spelled_as_files(images: Images, table: LabelTable) -> LabelTable:
    """The table with its ids as the image files spell them."""
    repeated = dict(zip(images.spelled(table.repeated), table.repeated.values()))
    problems = list(zip(images.spelled(key for key, _ in table.problems), (reason for _, reason in table.problems)))
    result = LabelTable(table.source, table.indices, {}, repeated, problems)
    for key, entry in zip(images.spelled(table.entries), table.entries.values()):
        result.put(key, entry.names, entry.where)
    return result


def _leave_out(result: Match, root: Path, images: Images, table: LabelTable, split: Sequence[str] | None) -> None:
    """Add problems and warnings for images without labels, and for labels (or ids of the split) without image."""
    done = {key for key, _ in result.problems}
    labelled = {key for key, entry in table.entries.items() if entry.names} | done
    bare = [key for key in (images.paths if split is None else split) if key in images.paths and key not in labelled]
    known = done | images.paths.keys()
    missing = [key for key in (table.entries if split is None else split) if key not in known]
    result.problems += [(key, f"no labels for it in {table.source}; add them, or leave it out") for key in bare]
    for key in missing:
        entry = table.entries.get(key)
        source = f"labelled in {table.source}, {entry.where}" if entry else "it is in the split"
        result.problems.append((key, f"no such image in {root}; {source}"))
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


def _unknown_names(spec: DatasetSpec, table: LabelTable, indices: Mapping[str, int]) -> list[str]:
    """The error line for names that are no classes, each with its first place and a suggestion."""
    places: dict[str, list[str]] = {}
    for entry in table.entries.values():
        for name in entry.names:
            if name not in indices:
                places.setdefault(name, []).append(entry.where)
    if not places:
        return []
    uses = sum(map(len, places.values()))
    count = _counted(len(places), "unknown class", "unknown classes")
    count += "" if uses == len(places) else f", used {uses} times"
    names = list(places)
    texts = [f"{shown(name)} ({places[name][0]}; {_hint(name, spec, table)})" for name in names[:EXAMPLES]]
    return [f"{table.source}: {count}: {_examples([*texts, *names[EXAMPLES:]])}"]


def _hint(name: str, spec: DatasetSpec, table: LabelTable) -> str:
    if table.indices and name.isdigit():
        return f"class indices run from 0 to {len(spec.classes) - 1}"
    if name.endswith(IMAGE_SUFFIXES):
        return "image names with spaces go in quotes"
    return hint(name, spec.classes)


def repeated_images(root: Path, images: Images) -> list[str]:
    """The error line for ids that several image files share."""
    reason = "results are named after the id: rename or remove all but one"
    return _repeated(f"{root}: {_counted(len(images.twice), 'id')} of several images", images.twice, reason)


def _repeated(what: str, places: Mapping[str, Sequence[str]], reason: str) -> list[str]:
    texts = [f"{key} ({_examples(where)})" for key, where in places.items()]
    return [f"{what}: {_examples(texts)}; {reason}"] if texts else []


def _no_sample(root: Path, images: Images, table: LabelTable, problems: Sequence[tuple[str, str]]) -> str:
    """The error line for a run without a single usable image."""
    if images.paths and table.entries and not images.paths.keys() & table.entries.keys():
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
