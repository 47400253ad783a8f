"""CLIP-ES's settings: its affinity is CLIP's unless it is asked for."""

import json

from clip.load import Clip
from common.provenance import differences, record_text
from pipeline.methods.clip_es import ClipEsSettings
from pipeline.methods.method import CamSettings
from pipeline.methods.table import METHODS
from voc12.spec import SPEC


def test_the_usual_affinity_leaves_records_as_they_were(tiny_clip: Clip) -> None:
    """Files of before there was a choice stay; another affinity is another way."""
    before = {**json.loads(record_text(CamSettings().record())), "box_threshold": 0.4}
    usual = METHODS["clip-es"].complete(tiny_clip, SPEC, ClipEsSettings())
    assert differences(before, CamSettings(options=usual).record()) == ""
    assert "affinity" in differences(before, CamSettings(options=ClipEsSettings(0.4, "both", "x")).record())
