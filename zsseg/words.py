"""The words that zsseg knows classes by: their plain names in a set of templates, or in learned prompts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from clip.learned_prompts import PREFIX, START, SUFFIX, LearnedPrompts
from clip.load import Clip
from clip.templates import IMAGENET80, SINGLE, VILD14, Words, knows_templates
from clip.text_cache import cached_words
from clip.tokenizer import SimpleTokenizer
from common.errors import UserError
from zsseg.checkpoint import Checkpoint

TEMPLATES = {"single": SINGLE, "vild14": VILD14, "imagenet80": IMAGENET80}
DATASET = "dataset"  # the data set's own template


def choose(clip: Clip, name: str, usual: str = "single") -> str:
    """ "auto" to the usual set of templates, or to "dataset" for a model that never saw their words."""
    if name != "auto":
        return name
    return usual if knows_templates(clip, TEMPLATES[usual]) else DATASET


def class_text(clip: Clip, names: Sequence[Sequence[str]], templates: str, own: str = "{}") -> Tensor:
    """(K, E) float32 unit text embeddings of K groups of names, inside the CLIP's learned prompts where it has some.

    templates  one of TEMPLATES, or "dataset" for the one template `own`
    """
    sentences = (own,) if templates == DATASET else TEMPLATES[templates]
    return cached_words(clip, Words([[name.strip() for name in group] for group in names], sentences))


def query_text(
    checkpoint: Checkpoint, path: Path, clip: Clip, names: Sequence[Sequence[str]], templates: str, own: str = "{}"
) -> Tensor:
    """(K, D) text embeddings that a network's queries are compared with, of K groups of names.

    path       of the checkpoint, for messages
    templates  "auto": what the network was trained with, where its file says it, and else "single"

    A network that was trained with learned prompts holds them. Raises UserError for a CLIP that it was not trained
    with.
    """
    width, about = checkpoint.network.sizes.text_width, checkpoint.about
    if width != clip.texts.embedding:
        raise UserError(
            f"{path}: its queries have {width} numbers, the text embeddings of {clip.name} {clip.texts.embedding}; "
            "pass the CLIP that it was trained with"
        )
    if about and about.words.get("clip") not in (None, clip.fingerprint):
        raise UserError(f"{path}: trained with another CLIP ({about.words['clip']}) than {clip.describe()}")
    learner = getattr(checkpoint.network.clip_adapter, "prompt_learner", None)
    learned = None
    if learner is not None:
        vectors = dict(learner.state_dict())
        none = clip.texts.token_embeddings()[:0]
        learned = LearnedPrompts.of(vectors.get(PREFIX, none), vectors.get(SUFFIX, none))
    if templates == "auto":
        templates = about.words.get("templates", "single") if about else "single"
    return class_text(replace(clip, learned=learned), names, templates, own)


def prompt_tensors(clip: Clip) -> dict[str, Tensor]:
    """The learned prompts of a CLIP as a checkpoint holds them: the vectors, and the tokens that stand around them."""
    assert clip.learned is not None
    (dot,) = SimpleTokenizer().encode(".")
    ids = {START: SimpleTokenizer.sot_token_id, "dot_signal": dot, "end_signal": SimpleTokenizer.eot_token_id}
    tokens = clip.texts.token_embeddings()
    signals = {name: tokens[[index]].float().cpu() for name, index in {**ids, "pad_signal": 0}.items()}
    vectors = {PREFIX: clip.learned.prefix, SUFFIX: clip.learned.suffix}
    return {**{name: value for name, value in vectors.items() if len(value)}, **signals}
