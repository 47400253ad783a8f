"""Parts of a golden folder: proposals, and CLIP on regions."""

import json
from collections.abc import Iterator

import numpy as np

from benchmarks.parity.parts import Part, Parts, Place, Row, Unequal
from common.images import read_image
from pipeline.steps.regions import LabelMap
from zsseg.selective_search import search

MERGED_LESS = 0.8  # the likeness at which the folder's proposals were made
TIES = 0.01  # share of pixels that ties and the version of scikit-image may change


def searched(place: Place, image_id: str, least: float) -> tuple[np.ndarray, np.ndarray]:
    return search(np.asarray(read_image(place.photo(image_id))), least)


def selective_search(place: Place) -> Iterator[Row]:
    """Label maps before and after merging, with the published likeness."""
    first, last, labels = Unequal(), Unequal(), Unequal()
    meta = json.loads((place.folder / "selective_search/meta.json").read_text(encoding="utf-8"))
    for image_id, facts in meta.items():
        initial, final = searched(place, image_id, 0.65)
        first.add(initial, np.load(place.folder / f"selective_search/{image_id}_initial.npz")["labels"])
        last.add(final, np.load(place.folder / f"selective_search/{image_id}.npy"))
        present, sizes = np.unique(final, return_counts=True)
        labels.add([initial.max() + 1, len(present)], [facts["initial"], facts["final"]])
        labels.add(present, facts["labels"])
        labels.add(np.abs(sizes - facts["sizes"]) <= TIES * final.size, np.ones(len(present)))
    yield first.row("selective search: labels before merging", TIES)
    yield last.row("selective search: labels after merging", TIES)
    yield labels.row("selective search: regions and their sizes", TIES)


def proposals(place: Place) -> Iterator[Row]:
    """The folder's proposals are those of a selective search that merges less; numbered anew, without gaps."""
    unequal = Unequal()
    for path in sorted((place.folder / "proposals").glob("*.npy")):
        ours = LabelMap.of(searched(place, path.stem, MERGED_LESS)[1])
        unequal.add(ours.labels, LabelMap.of(np.load(path, allow_pickle=False)).labels)
    yield unequal.row("proposals: numbers of regions", TIES)


PARTS: Parts = {
    "selective search": Part(("selective_search/*",), selective_search),
    "proposals": Part(("proposals/*.npy",), proposals),
}
