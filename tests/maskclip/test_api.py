"""The pip package's interface, as its README has it."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskclip
from clip.load import Clip
from clip.templates import BASE18, MASKCLIP85
from clip.text import encode_prompts
from common.errors import UserError
from maskclip import api
from maskclip.class_names import CLASSES
from tests.support import openai_file, photo
from tests.tiny_resnet import tiny_resnet_model

# As the package's README has it, all of it.
EXAMPLE = """
import torch
import maskclip
from PIL import Image
from matplotlib import pyplot as plt

device = "cuda" if torch.cuda.is_available() else "cpu"
model, preprocess = maskclip.load("RN50", device=device)

image = preprocess(Image.open("notebooks/dog.jpg")).unsqueeze(0).to(device)
text_embeddings = maskclip.generate_text_embeddings(["a diagram", "a dog", "a cat"]).to(device)
model.initialize_text_embeddings(text_embeddings)

with torch.no_grad():
    output = model(image)

    mask = output.argmax(dim=1).cpu().numpy()[0]

plt.imshow(mask)
"""


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "tiny.pt"
    torch.save(openai_file(tiny_resnet_model()), path)
    return path


@pytest.fixture(autouse=True)
def no_model_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_latest", None)


@pytest.fixture
def loaded(weights: Path) -> Iterator[maskclip.MaskClip]:
    model, _ = maskclip.load(str(weights), device="cpu")
    yield model


def test_the_readmes_example_runs(tmp_path: Path, resnet_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RN50 lies where the package keeps its downloads; no drawing library is needed to see what would be drawn."""
    (tmp_path / ".cache" / "maskclip").mkdir(parents=True)
    (tmp_path / ".cache" / "maskclip" / "RN50.pt").write_bytes(resnet_weights.read_bytes())
    (tmp_path / "notebooks").mkdir()
    Image.fromarray(photo((70, 90), 1)).save(tmp_path / "notebooks" / "dog.jpg")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    drawn: list[np.ndarray] = []
    plotting = types.SimpleNamespace(pyplot=types.SimpleNamespace(imshow=drawn.append))
    monkeypatch.setitem(sys.modules, "matplotlib", plotting)
    path = tmp_path / "example.py"
    path.write_text(EXAMPLE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    exec_file(path)
    (mask,) = drawn
    assert mask.shape == (2, 2) and mask.dtype == np.int64 and 0 <= mask.min() <= mask.max() <= 2


def exec_file(path: Path) -> None:
    import runpy

    runpy.run_path(str(path))


def test_names() -> None:
    assert maskclip.available_models() == [
        "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px",
    ]  # fmt: skip
    assert maskclip.available_datasets() == ["voc", "context", "stuff"]


# --- loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "side"), [(None, 32), (48, 48)])
def test_preprocess_squares_and_normalises(given: int | None, side: int, weights: Path) -> None:
    _, preprocess = maskclip.load(str(weights), "cpu", input_resolution=given)
    image = Image.fromarray(photo((30, 50), 4))
    found = preprocess(image.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGBA"))
    assert found.shape == (3, side, side)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) / 255
    wanted = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    assert np.allclose(preprocess(image), wanted.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["RN50", "RN101"])
def test_a_name_without_network_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    asked = []

    def refuse(model: str, tag: str) -> Path:
        asked.append((model, tag))
        raise UserError(f"--model {model} --pretrained {tag}: cannot be downloaded")

    monkeypatch.setattr("clip.hub.download", refuse)
    with pytest.raises(UserError, match="cannot be downloaded"):
        maskclip.load(name, device="cpu")
    assert asked == [(name, "openai")]


def test_unknown_names(weights: Path) -> None:
    with pytest.raises(UserError, match="neither a file nor"):
        maskclip.load("RN49", device="cpu")
    with pytest.raises(UserError, match="expected one of voc, context, stuff"):
        maskclip.load(str(weights), device="cpu", dataset="ade")


def test_a_data_set_is_scored_at_once(weights: Path, tiny_clip: Clip) -> None:
    model, preprocess = maskclip.load(str(weights), "cpu", dataset="voc", templates="base", jit=False)
    wanted = encode_prompts(tiny_clip, [[t.replace("{}", name) for t in BASE18] for name in CLASSES["voc"]])
    assert torch.allclose(model.text_embeddings, wanted, atol=1e-3)  # the file holds float16
    assert model(preprocess(Image.new("RGB", (9, 9)))[None]).shape == (1, 20, 4, 4)


# --- texts --------------------------------------------------------------------------------------


def test_both_orders_and_neither(loaded: maskclip.MaskClip) -> None:
    names, base = ["a dog", "a cat"], "base"
    wanted = maskclip.generate_text_embeddings(loaded, names, base)
    assert wanted.shape == (2, 32) and torch.allclose(wanted.norm(dim=1), torch.ones(2), atol=1e-5)
    for found in (
        maskclip.generate_text_embeddings(names, loaded, base),
        maskclip.generate_text_embeddings(names, base),
        maskclip.generate_text_embeddings(names, templates=base, model=loaded),
        maskclip.generate_text_embeddings(names, templates=list(BASE18), device="cpu"),
    ):
        assert torch.equal(found, wanted)


def test_each_class_is_the_mean_of_its_85_sentences(loaded: maskclip.MaskClip) -> None:
    found = maskclip.generate_text_embeddings(loaded, ["dog"])[0]
    tokens = maskclip.tokenize([template.replace("{}", "dog") for template in MASKCLIP85])
    units = [loaded.encode_text(row[None])[0] for row in tokens]
    mean = sum(units) / 85
    assert len(units) == 85 and torch.allclose(found, mean / mean.norm(), atol=1e-5)


def test_background_is_left_out_of_the_answer_only(loaded: maskclip.MaskClip) -> None:
    names = ["background", "dog"]
    found = maskclip.generate_text_embeddings(loaded, names, ["{}"])
    assert names == ["background", "dog"] and len(found) == 1


@pytest.mark.parametrize("arguments", [(), ("dog",), ([["dog"]][0], "no such set")])
def test_calls_that_cannot_be_understood(arguments: tuple, loaded: maskclip.MaskClip) -> None:
    with pytest.raises(UserError):
        maskclip.generate_text_embeddings(*(arguments or (loaded,)))


def test_without_any_model() -> None:
    with pytest.raises(UserError, match="no model"):
        maskclip.generate_text_embeddings(["dog"])


def test_tokens() -> None:
    one = maskclip.tokenize("a dog")
    assert one.shape == (1, 77) and one.dtype == torch.int64 and one[0, 0] == 49406 and one[0, 3] == 49407
    assert torch.equal(maskclip.tokenize(["a dog", "cat"])[:1], one)
    assert maskclip.tokenize("a dog", context_length=5).shape == (1, 5)
    with pytest.raises(UserError):
        maskclip.tokenize("word " * 100)


def test_feature_layers(loaded: maskclip.MaskClip) -> None:
    """The tiny text tower has two blocks: 0 and None are all of them (sic), -2 is the first alone."""
    tokens = maskclip.tokenize(["a dog", "a large cat"])
    whole = loaded.encode_text(tokens)
    for layer in (0, -1, 1):
        assert torch.equal(loaded.encode_text(tokens, feature_layer=layer), whole)
    text, ends = loaded.clip.texts.tower(torch.device("cpu")), [2 + 1, 3 + 1]  # start, the words, end
    states = text.token_embedding(tokens) + text.positional_embedding
    mask = torch.full((77, 77), -torch.inf).triu(1)
    states = text.ln_final(text.transformer.resblocks[0](states, mask))
    wanted = torch.stack([row[end] @ text.text_projection for row, end in zip(states, ends)])
    found = loaded.encode_text(tokens, normalize=False, feature_layer=-2)
    assert torch.allclose(found, wanted, atol=1e-5) and not torch.allclose(found, whole, atol=1e-2)
    early = maskclip.generate_text_embeddings(loaded, ["dog"], ["{}"], feature_layer=-2)
    assert not torch.allclose(early, maskclip.generate_text_embeddings(loaded, ["dog"], ["{}"]), atol=1e-2)
    with pytest.raises(UserError, match="2 blocks"):
        loaded.encode_text(tokens, feature_layer=-3)


# --- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_logits_are_features_times_texts(tower: str, weights: Path, resnet_weights: Path) -> None:
    model, _ = maskclip.load(str(weights if tower == "vit" else resnet_weights), "cpu")
    torch.manual_seed(3)
    images = torch.randn(2, 3, 64, 96)
    grid = (8, 12) if tower == "vit" else (2, 3)
    texts = torch.nn.functional.normalize(torch.randn(5, 32), dim=-1)
    model.initialize_text_embeddings(texts)
    whole, patches = model.encode_image(images)
    assert whole.shape == (2, 32) and torch.allclose(whole.norm(dim=1), torch.ones(2), atol=1e-5)
    assert patches.shape == (2, grid[0] * grid[1], 32)
    found = model(images)
    assert found.shape == (2, 5, *grid)
    scale = float(model.network.logit_scale.exp())
    for y in range(grid[0]):
        for x in range(grid[1]):
            wanted = scale * (texts @ patches[1, y * grid[1] + x])
            assert torch.allclose(found[1, :, y, x], wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_image_features_are_clips_own(tower: str, weights: Path, resnet_weights: Path) -> None:
    model, preprocess = maskclip.load(str(weights if tower == "vit" else resnet_weights), "cpu")
    image = preprocess(Image.fromarray(photo((50, 40), 2)))[None]
    wanted = torch.nn.functional.normalize(model.network.encode_image(image), dim=-1)
    assert torch.allclose(model.encode_image(image)[0], wanted, atol=1e-5)


def test_token_ids_in_place_of_embeddings(loaded: maskclip.MaskClip) -> None:
    image = torch.randn(1, 3, 32, 32)
    with pytest.raises(UserError, match="initialize_text_embeddings"):
        loaded(image)
    tokens = maskclip.tokenize(["a dog", "a cat"])
    loaded.initialize_text_embeddings(loaded.encode_text(tokens))
    wanted = loaded(image)
    assert torch.allclose(loaded(image, tokens), wanted, atol=1e-3)
    assert torch.allclose(loaded(image, [tokens[0], tokens[1:]]), wanted, atol=1e-3)


# --- class lists --------------------------------------------------------------------------------

SAID_OTHERWISE = {  # by index in COCO-Stuff
    84: "building", 90: "ceiling", 91: "tile ceiling", 98: "desk", 100: "door", 102: "marble floor", 103: "floor",
    104: "stone floor", 105: "tile floor", 106: "wood floor", 109: "food", 111: "furniture", 114: "ground",
    121: "mirror", 130: "plant", 145: "sky", 148: "solid", 152: "structural", 155: "textile", 159: "brick wall",
    160: "concrete wall", 161: "wall", 162: "panel wall", 163: "stone wall", 164: "tile wall", 165: "wood wall",
    166: "water", 168: "blind window", 169: "window",
}  # fmt: skip


def test_class_lists_are_the_published_ones() -> None:
    """By their lengths, by the 29 names that differ, and by the names of the unseen classes at their indices."""
    assert [len(names) == len(set(names)) == count for names, count in zip(CLASSES.values(), (20, 59, 171))] == [
        True
    ] * 3
    assert all(CLASSES["stuff"][index] == name for index, name in SAID_OTHERWISE.items())
    unseen = (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157)
    assert [CLASSES["stuff"][i] for i in unseen] == (
        "cow giraffe suitcase frisbee skateboard carrot scissors cardboard clouds grass playingfield river road tree"
    ).split()
    assert [CLASSES["context"][i] for i in (19, 33, 48, 14, 7, 24, 6, 54, 31, 0)] == (
        "cow,motorbike,sofa,cat,boat,fence,bird,tv monitor,keyboard,airplane"
    ).split(",")
    assert CLASSES["voc"][15:] == ("potted plant", "sheep", "sofa", "train", "tv monitor")
