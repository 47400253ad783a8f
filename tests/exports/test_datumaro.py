"""Datumaro's own layout, read by Datumaro."""

from pathlib import Path

import numpy as np
import pytest

from tests.exports.made import CONFIDENCE, LABELS, exported, truth, without_255


def test_datumaro_reads_the_same_masks(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro")
    out, pairs, _ = exported("datumaro", tmp_path)
    data = datumaro.Dataset.import_from(str(out), "datumaro")
    assert [label.name for label in data.categories()[datumaro.AnnotationType.label]] == list(LABELS[1:])
    assert len(data) == 4 and set(data.subsets()) == {"train", "val"}
    for image_id, raw in truth(pairs).items():
        item, found = data.get(image_id, "train"), np.zeros_like(raw)
        assert item.media.data.shape == (*raw.shape, 3)
        for annotation in item.annotations:
            mask = annotation.image.astype(bool)
            assert not found[mask].any() and annotation.attributes["score"] == CONFIDENCE[annotation.label + 1]
            found[mask] = annotation.label + 1
        assert np.array_equal(found, without_255(raw))
