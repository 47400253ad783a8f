"""The three commands as a user meets them: what goes wrong ends in one line, what works writes only where it should."""

import json
import re
from collections.abc import Callable

import pytest
import torch

from tests.made import made
from tests.support import Desk, annotation, openai_state, tiny_model, tree

COMMANDS = ("generate_cams", "eval_cam", "eval_cam_with_crf")


# --- the command cannot run as asked: one line, exit code 2, nothing written -----------------------

Prepare = Callable[[Desk], list[object]]


def nothing(*options: object) -> Prepare:
    return lambda desk: list(options)


def split_of(text: str | bytes) -> Prepare:
    def prepare(desk: Desk) -> list[object]:
        desk.split.write_bytes(text if isinstance(text, bytes) else text.encode())
        return []

    return prepare


def weights_of(content: object, suffix: str = ".pt") -> Prepare:
    def prepare(desk: Desk) -> list[object]:
        path = desk.root / f"other{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content() if callable(content) else content, path)
        return ["--model", path]

    return prepare


def without_annotations(desk: Desk) -> list[object]:
    (desk.data / "Annotations").rename(desk.data / "elsewhere")
    return []


def output_is_a_file(option: str) -> Prepare:
    def prepare(desk: Desk) -> list[object]:
        (desk.root / "taken").write_text("")
        return [option, desk.root / "taken"]

    return prepare


def resnet() -> dict[str, torch.Tensor]:
    state = openai_state(tiny_model(layers=1, text_layers=1))
    return {key: value for key, value in state.items() if "visual" not in key} | {
        "visual.conv1.weight": torch.zeros(8, 3, 3, 3).half()
    }


def truncated_tower() -> dict[str, torch.Tensor]:
    """Also of unknown activation: a warning about that would be a second line."""
    state = openai_state(tiny_model(layers=1, text_layers=1))
    return {key: value.float() for key, value in state.items() if "ln_post" not in key}


USAGE = [
    ("all", nothing("--img_root", "nowhere"), r"--img_root nowhere: no such folder"),
    ("all", nothing("--split_file", "nowhere.txt"), r"--split_file nowhere\.txt: no such file"),
    ("all", nothing("--no_such_option"), "no_such_option"),
    ("all", nothing("--dataset", "voc"), "invalid choice: 'voc'"),
    ("all", nothing("--num_workers", "0"), "num_workers"),
    ("all", split_of(""), r"train\.txt: an empty split"),
    ("all", split_of("a\n../../etc/passwd\n"), r"'\.\./\.\./etc/passwd' leaves the image folder"),
    ("all", split_of("/etc/passwd\n"), "'/etc/passwd' leaves the image folder"),
    ("all", split_of(b"a\0b\n"), r"train\.txt: a binary file"),
    ("all", split_of(b"\xff\xd8\xff\xe0 no text"), r"train\.txt, line 1: not UTF-8 text"),
    ("generate_cams", without_annotations, r"Annotations beside --img_root, .*: no such folder"),
    ("generate_cams", nothing("--method", "clip-se"), "--method: invalid choice: 'clip-se'"),
    ("generate_cams", nothing("--model", "nowhere.pt"), r"nowhere\.pt: no such weight file; expected"),
    ("generate_cams", nothing("--model", "ViT-Q-99"), "--model ViT-Q-99: neither a file nor an open_clip model name"),
    ("generate_cams", nothing("--model", "ViT-B-16"), "needs --pretrained"),
    ("generate_cams", nothing("--model", "ViT-B-16", "--pretrained", "opnai"), "opnai: unknown for ViT-B-16"),
    ("generate_cams", nothing("--device", "nonsense"), "--device nonsense: not available"),
    ("generate_cams", nothing("--device", "cuda:99"), "--device cuda:99: not available"),
    ("generate_cams", nothing("--scales", "0"), "--scales"),
    ("generate_cams", nothing("--scales", "nan"), "--scales"),
    ("generate_cams", nothing("--scales", "inf"), "--scales"),
    ("generate_cams", nothing("--box_threshold", "1.5"), "box_threshold"),
    ("generate_cams", nothing("--batch_size", "-1"), "batch_size"),
    ("generate_cams", weights_of({"a": torch.zeros(2)}), r"other\.pt: not the weights of a CLIP"),
    ("generate_cams", weights_of(resnet), r"other\.pt.*ViT"),
    ("generate_cams", weights_of(truncated_tower), r"other\.pt: .*ln_post"),
    ("generate_cams", weights_of([1, 2]), r"other\.pt: holds a list"),
    ("generate_cams", weights_of(b"hello"), r"other\.pt: .*expected an OpenAI, open_clip"),
    ("generate_cams", weights_of(b"hello", ".safetensors"), r"other\.safetensors: cannot be read"),
    ("generate_cams", output_is_a_file("--cam_out_dir"), "taken"),
    ("eval_cam", nothing("--cam_out_dir", "nowhere"), "--cam_out_dir nowhere: no such folder; expected the output of"),
    ("eval_cam", nothing("--cam_type", "png", "--cam_out_dir", "nowhere"), "--cam_out_dir nowhere: no such folder"),
    ("eval_cam", nothing("--cam_type", "gif"), "invalid choice: 'gif'"),
    ("eval_cam", nothing("--gt_root", "nowhere"), "--gt_root nowhere: no such folder"),
    ("eval_cam", nothing("--cam_eval_thres", "high"), "cam_eval_thres"),
    ("eval_cam_with_crf", nothing("--cam_out_dir", "nowhere"), "--cam_out_dir nowhere: no such folder"),
    ("eval_cam_with_crf", nothing("--gt_root", "nowhere"), "--gt_root nowhere: no such folder"),
    ("eval_cam_with_crf", nothing("--confidence", "95"), "confidence"),
    ("eval_cam_with_crf", nothing("--crf", "fast"), "invalid choice: 'fast'"),
]
CASES = [(name, prepare, words) for who, prepare, words in USAGE for name in (COMMANDS if who == "all" else (who,))]


@pytest.mark.parametrize(("name", "prepare", "words"), CASES, ids=[f"{name}-{words}" for name, _, words in CASES])
def test_a_mistake_in_the_call_is_one_line(desk: Desk, name: str, prepare: Prepare, words: str) -> None:
    if name != "generate_cams":
        desk.cams.mkdir()
    more = prepare(desk)
    before = tree(desk.root)
    ended = desk.run(name, *more)
    assert ended.code == 2
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1 and ended.err.endswith("\n"), ended.err
    assert re.search(words, ended.err), ended.err
    assert tree(desk.root) == before


@pytest.mark.parametrize("name", ["eval_cam", "eval_cam_with_crf"])
def test_scores_that_cannot_be_written_are_one_line(desk: Desk, name: str, quick_crf: None) -> None:
    assert desk.run("generate_cams").code == 0
    (desk.root / "folder").mkdir()
    ended = desk.run(name, "--gt_root", desk.data / "SegmentationClass", "--json", desk.root / "folder")
    assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1


def test_ground_truth_is_needed_to_score(desk: Desk) -> None:
    (desk.data / "SegmentationClass").rename(desk.data / "elsewhere")
    desk.cams.mkdir()
    for name, more in (("eval_cam", ()), ("eval_cam_with_crf", ("--eval_only",))):
        ended = desk.run(name, *more)
        assert ended.code == 2 and ended.err.startswith("error: --gt_root is needed") and ended.err.count("\n") == 1


# --- some images fail: they are named, the rest is made, exit code 3 -------------------------------


def delete(which: str) -> Callable[[Desk], object]:
    return lambda desk: getattr(desk, which)("b").unlink()


def write(which: str, content: str | bytes) -> Callable[[Desk], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda desk: getattr(desk, which)("b").write_bytes(data)


def truncate(desk: Desk) -> None:
    desk.image("b").write_bytes(desk.image("b").read_bytes()[:-150])


ENTITY = "<!DOCTYPE a [<!ENTITY x {}>]><annotation><object><name>&x;</name></object></annotation>"
LAUGHS = "".join(f'<!ENTITY y{n + 1} "{f"&y{n};" * 10}">' for n in range(9))
BOMB = f'<!DOCTYPE a [<!ENTITY y0 "dog">{LAUGHS}]><annotation><object><name>&y9;</name></object></annotation>'

FAILURES = [
    (delete("image"), r"b\.jpg: no such image"),
    (delete("xml"), r"b\.xml: no such annotation"),
    (truncate, r"b\.jpg: not a readable image"),
    (write("image", b""), r"b\.jpg: not a readable image"),
    (write("image", "hello"), r"b\.jpg: not a readable image"),
    (write("xml", "<annotation>"), r"b\.xml: damaged XML"),
    (write("xml", annotation(["aeroplan"])), r"unknown class 'aeroplan'; did you mean 'aeroplane'"),
    (write("xml", annotation(["hors"])), "did you mean 'horse'"),
    (write("xml", "<!DOCTYPE annotation>" + annotation(["dog"])), "declares a DOCTYPE"),
    (write("xml", ENTITY.format('SYSTEM "file:///etc/passwd"')), r"b\.xml: (damaged|refused)"),
    (write("xml", BOMB), r"b\.xml: (damaged|refused)"),
]


@pytest.mark.parametrize(("harm", "words"), FAILURES, ids=[words for _, words in FAILURES])
def test_a_bad_image_or_annotation_fails_alone(desk: Desk, harm: Callable[[Desk], object], words: str) -> None:
    harm(desk)
    ended = desk.run("generate_cams")
    lines = ended.err.splitlines()
    assert ended.code == 3 and len(lines) == 2 and lines[0] == "1 image failed:" and lines[1].startswith("  b: ")
    assert re.search(words, lines[1])
    assert list(made(desk.cams)) == ["a.npz", "c.npz", "failures.jsonl"]
    (failure,) = map(json.loads, (desk.cams / "failures.jsonl").read_text().splitlines())
    assert failure["id"] == "b" and re.search(words, failure["reason"]) and failure["stage"] in ("data", "cams")
    scored = desk.run("eval_cam")
    assert scored.code == 3 and "b.npz: no such CAM file" in scored.err and "2 images" in scored.out


def test_a_new_folder_gets_its_records_where_no_photo_can_be_read(desk: Desk) -> None:
    for image_id in "abc":
        desk.image(image_id).write_bytes(b"")
    ended = desk.run("generate_cams")
    assert ended.code == 3 and "3 images failed" in ended.err
    assert sorted(path.name for path in desk.cams.iterdir()) == ["failures.jsonl", "run.json"]


def test_all_images_failing_still_ends_in_three(desk: Desk) -> None:
    for image_id in "abc":
        desk.xml(image_id).unlink()
    ended = desk.run("generate_cams")
    assert ended.code == 3 and "3 images failed" in ended.err and not desk.cams.exists()
    desk.cams.mkdir()
    (desk.cams / "a.npz").touch()
    ended = desk.run("eval_cam")
    assert ended.code == 3 and "nothing could be scored" in ended.err
