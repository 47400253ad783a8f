"""Class names of the three data sets that MaskCLIP was published with, as its prompts say them.

Label order of the data sets, background left out.
"""

from coco14 import cocostuff
from voc12 import context59, voc20

CLASSES = {
    name: tuple(prompts[0] for prompts in spec.plain_prompts or spec.prompts)
    for name, spec in (("voc", voc20.SPEC), ("context", context59.SPEC), ("stuff", cocostuff.SPEC))
}
