"""VOC annotations, one XML an image, at any depth; the path below the folder without suffix is the image's id."""

from pathlib import Path

from lxml import etree

from common.errors import UserError
from common.files import is_file
from dataset.ids import plain_id, unfit
from dataset.label_source import LabelSource, LabelTable
from dataset.names import one_form
from dataset.text_files import files_below, read_bytes, shown

MAX_XML = 16 << 20  # bytes; VOC's annotations have a few KiB


def recognises(source: LabelSource) -> bool:
    """Whether it is a folder with an XML file in it or below."""
    return source.is_folder and bool(files_below(source.path, ".xml"))


def read(source: LabelSource) -> LabelTable:
    """An annotation that cannot be read is entered as the problem of its image."""
    table = LabelTable(str(source.path))
    for xml in files_below(source.path, ".xml"):
        where = xml.relative_to(source.path).as_posix()
        key = where.removesuffix(".xml")
        try:
            table.put(plain_id(key, source.path), read_names(xml), where)
        except UserError as error:
            table.problems.append((ascii(key) if unfit(key) else key, str(error)))
    return table


def read_names(xml: Path) -> tuple[str, ...]:
    """The distinct `object/name` texts of an annotation in file order, in one Unicode form.

    The XML is read without entities, DTDs or network. Raises UserError for a missing or damaged file, and for an
    object without a name.
    """
    if not is_file(xml):
        raise UserError(f"{xml}: no such annotation; expected a VOC XML file with the objects of the image")
    data = read_bytes(xml, "a VOC annotation", MAX_XML)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, LookupError, ValueError) as error:  # the last two: an encoding that is unknown
        reason = shown(" ".join(str(error).split()))
        raise UserError(f"{xml}: damaged XML ({reason}); expected a VOC annotation") from error
    if getattr(root.getroottree().docinfo, "doctype", ""):
        raise UserError(f"{xml}: refused, it declares a DOCTYPE; expected a plain VOC annotation")
    names: dict[str, None] = {}
    for number, item in enumerate(root.iterfind("object"), 1):
        texts = [one_form((name.text or "").strip()) for name in item.iterfind("name")]
        if not texts or not all(texts):
            raise UserError(f"{xml}: object {number} has no name; add it, or remove the object")
        names.update(dict.fromkeys(texts))
    return tuple(names)
