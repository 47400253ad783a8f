"""Captions in every form, what is wrong with them, and their tokens."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
from PIL import Image

from common.errors import UserError
from segclip.training.captions import caption_file, caption_tokens, read_captions


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.png", "train2014/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def karpathy(name: str, split: str, *sentences: str) -> dict[str, Any]:
    return {
        "filepath": "train2014",
        "filename": name,
        "split": split,
        "sentences": [{"raw": text, "tokens": []} for text in sentences],
    }


FORMS = {
    "c.jsonl": '{"image": "a.jpg", "captions": ["a dog", "dogs"]}\n\n'
    '{"image": "train2014/c.jpg", "caption": "a cat, ä"}\n',
    "c.csv": 'caption,image\na dog,a.jpg\ndogs,a.jpg\n"a cat, ä",train2014/c.jpg\n',
    "c.tsv": "image\tcaption\na.jpg\ta dog\na.jpg\tdogs\ntrain2014/c.jpg\ta cat, ä\n",
    "coco.json": json.dumps({
        "images": [{"id": 7, "file_name": "train2014/c.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 3, "caption": "a dog"}, {"image_id": 3, "caption": "dogs"},
                        {"image_id": 7, "caption": "a cat, ä"}],
    }),
    "karpathy.json": json.dumps({"images": [
        karpathy("a.jpg", "train", "a dog", "dogs"), karpathy("b.png", "val", "no"),
        karpathy("c.jpg", "restval", "a cat, ä"),
    ]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_all_forms_say_the_same(photos: Path, name: str) -> None:
    (photos / name).write_text(FORMS[name], encoding="utf-8")
    found = read_captions(photos, photos / name, ("train", "restval"))
    said = [(pair.id, pair.image.name, pair.caption) for pair in found.pairs]
    assert said == [("a", "a.jpg", "a dog"), ("a", "a.jpg", "dogs"), ("train2014/c", "c.jpg", "a cat, ä")]
    assert not found.problems and not found.remarks


def test_lines_that_cannot_be_used_are_named_and_the_others_are_used(photos: Path) -> None:
    rows = [("a.jpg", "fine"), ("gone.jpg", "x"), ("b.png", " \t"), ("../a.jpg", "x"), ("b.png", None)]
    rows.append(("b.png", "word " * 10_000))
    path = photos / "captions.jsonl"
    path.write_text("".join(json.dumps({"image": image, "caption": text}) + "\n" for image, text in rows))
    found = read_captions(photos, path)
    assert [pair.caption for pair in found.pairs] == ["fine", "word " * 10_000]
    said = dict(found.problems)
    assert "line 2: no image" in said["gone.jpg"] and "line 5: an empty caption" in said["b.png"]
    assert "leaves the image folder" in said["../a.jpg"] and len(found.problems) == 4
    assert "line 6: a caption of more than 256 words" in found.remarks[0] and len(found.remarks) == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.jsonl", '{"image": "a.jpg"', "line 1: not JSON"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}', "line 1: no `image`"),
        ("c.jsonl", '{"image": "gone.jpg", "caption": "x"}', "nothing to train on: .*line 1: no image"),
        ("c.csv", "file,caption\na,b\n", "line 1: expected the header image,caption"),
        ("c.csv", "image,caption\na.jpg,a dog, a cat\n", "line 2: 3 columns, expected 2"),
        ("c.json", '{"categories": []}', "neither COCO's captions"),
        ("c.json", json.dumps({"images": [karpathy("a.jpg", "val", "x")]}), "--splits train: .* expected some of val"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(photos: Path, name: str, text: str, said: str) -> None:
    (photos / name).write_text(text)
    with pytest.raises(UserError, match=said) as found:
        read_captions(photos, photos / name)
    assert "\n" not in str(found.value)


def test_the_file_beside_the_images_is_found(photos: Path) -> None:
    with pytest.raises(UserError, match="no caption file in it; name one with --captions"):
        caption_file(photos)
    (photos / "captions.csv").touch()
    assert caption_file(photos).name == "captions.csv"
    (photos / "dataset_coco.json").touch()
    with pytest.raises(UserError, match=r"both captions\.csv and dataset_coco\.json"):
        caption_file(photos)


def test_tokens_are_those_of_openais_tokenizer_cut_to_the_length() -> None:
    for text in ("A photo of a Dog.", "naïve &amp; cats\n in 2024", "dog " * 300, "x" * 5000):
        theirs = open_clip.tokenize([text], 12)[0].tolist()
        assert caption_tokens(text, 12) == theirs
