"""XML files of users, read without entities, DTDs or network."""

from pathlib import Path

from lxml import etree

from common.errors import UserError
from dataset.text_files import read_bytes, shown


def read_xml(path: Path, expected: str, max_bytes: int) -> "etree._Element":
    """The root element. Raises UserError, naming the file, for one that is too large, damaged or declares a DOCTYPE."""
    data = read_bytes(path, expected, max_bytes)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, LookupError, ValueError) as error:  # the last two: an encoding that is unknown
        reason = shown(" ".join(str(error).split()))
        raise UserError(f"{path}: damaged XML ({reason}); expected {expected}") from error
    if getattr(root.getroottree().docinfo, "doctype", ""):
        raise UserError(f"{path}: refused, it declares a DOCTYPE; expected {expected} without one")
    return root
