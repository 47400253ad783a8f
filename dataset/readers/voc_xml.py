"""VOC annotations, one XML an image, at any depth; the path below the folder without suffix is the image's id."""

from pathlib import Path

from common.errors import UserError
from common.files import is_file
from dataset.ids import plain_id, unfit
from dataset.label_source import LabelSource, LabelTable
from dataset.names import one_form
from dataset.text_files import shown
from dataset.xml_files import read_xml

MAX_XML = 16 << 20  # bytes; VOC's annotations have a few KiB
SIMILAR = {"objects", "label", "labels", "class", "classes", "category", "categories", "tag", "tags"}


def recognises(source: LabelSource) -> bool:
    """Whether it is a folder with an XML file in it or below."""
    return source.is_folder and bool(source.files(".xml"))


def read(source: LabelSource) -> LabelTable:
    """An annotation that cannot be read is entered as the problem of its image."""
    table = LabelTable(str(source.path), are_ids=True)
    for xml in source.files(".xml"):
        where = source.below(xml)
        key = where[: -len(".xml")]
        try:
            table.put(plain_id(key, source.path), read_names(xml), where)
        except UserError as error:
            table.problems.append((ascii(key) if unfit(key) else key, str(error)))
    return table


def read_names(xml: Path) -> tuple[str, ...]:
    """The distinct `object/name` texts of an annotation in file order, in one Unicode form.

    Raises UserError for a missing or damaged file, for an object without a name, and for other elements that look like
    labels.
    """
    if not is_file(xml):
        raise UserError(f"{xml}: no such annotation; expected a VOC XML file with the objects of the image")
    names: dict[str, None] = {}
    number = 0
    root = read_xml(xml, "a VOC annotation", MAX_XML)
    if _local(root.tag) != "annotation":
        raise UserError(f"{xml}: <{shown(_local(root.tag))[1:-1]}> is no VOC annotation; expected <annotation>")
    for item in root:
        tag = _local(item.tag)
        if tag.lower() in SIMILAR or (tag.lower() == "object" and tag != "object"):
            raise UserError(f"{xml}: <{shown(tag)[1:-1]}> looks like labels; VOC annotations have <object> with <name>")
        if tag == "object":
            number += 1
            texts = [one_form((name.text or "").strip()) for name in item if _local(name.tag) == "name"]
            if not texts or not all(texts):
                raise UserError(f"{xml}: object {number} has no name; add it, or remove the object")
            names.update(dict.fromkeys(texts))
    return tuple(names)


def _local(tag: object) -> str:
    """An element's name without its namespace; "" for comments."""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
