"""The ways to propose regions by name. A new one is a file in this folder, a line here, and a test."""

from zsseg.proposals import felzenszwalb, folder, maskformer, sam, selective_search, universal
from zsseg.proposals.proposer import Proposer

PROPOSERS: dict[str, Proposer] = {
    "felzenszwalb": felzenszwalb.PROPOSER,
    "selective-search": selective_search.PROPOSER,
    "folder": folder.PROPOSER,
    "sam": sam.PROPOSER,
    "universal": universal.PROPOSER,
    "maskformer": maskformer.PROPOSER,
}
