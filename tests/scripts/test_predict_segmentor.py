"""scripts/predict_segmentor.py: masks of a known network, what is kept, what is refused, and scores by eval_cam.py."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval_cam
from pipeline.crf.dense_crf import dense_crf
from scripts import predict_segmentor
from segmentor import networks
from segmentor.augment import NORMALISATIONS
from segmentor.weights import Description, write_weights
from tests.segmentor.small import LABELS, SmallBody, write_scenes
from tests.support import tree


class ByColour(SmallBody):
    """The image itself as features, at every fourth pixel."""

    width = 3

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.encoder = torch.nn.Identity()
        self.decode_head = torch.nn.AvgPool2d(4)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.decode_head(self.encoder(images))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network that scores red and blue by the colour, and green as background, and four scenes beside it."""
    monkeypatch.setitem(networks.ARCHES, "segformer-tiny", ByColour)
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, 4)
    network = networks.build("segformer-tiny", 3)
    order = torch.tensor([1, 0, 2])  # channels of background, red, blue
    deviation = torch.tensor(NORMALISATIONS["imagenet"][1])
    with torch.no_grad():
        network.head.weight.zero_()
        for label, channel in enumerate(order):
            network.head.weight[label, channel] = 0.05 * deviation[channel]
        mean = torch.tensor(NORMALISATIONS["imagenet"][0])
        network.head.bias.copy_(0.05 * mean[order])
    path = tmp_path / "weights.safetensors"
    write_weights(path, network.state_dict(), Description("segformer-tiny", LABELS, "imagenet", 5))
    return path


def predict(weights: Path, *more: object) -> int:
    given = ["--weights", weights, "--img_root", "images", "--out", "out", "--device", "cpu", *more]
    return predict_segmentor.main([str(part) for part in given])


def truth(image_id: str) -> np.ndarray:
    return np.array(Image.open(f"masks/{image_id}.png"))


def mask(image_id: str, folder: str = "out") -> Image.Image:
    return Image.open(f"{folder}/{image_id}.png")


def test_masks_are_labels_as_they_are(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And eval_cam.py scores them as counting does."""
    assert predict(weights) == 0 and "4 masks written" in capsys.readouterr().out
    assert all(mask(f"s{index}").mode == "L" and mask(f"s{index}").size == (72, 64) for index in range(4))
    right = [(np.array(mask(f"s{i}")) == truth(f"s{i}"))[truth(f"s{i}") != 255] for i in range(4)]
    assert all(each.mean() > 0.9 for each in right)
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    options = ["--dataset", "folder", "--img_root", "images", "--classes", "classes.txt", "--gt_root", "masks"]
    assert eval_cam.main([*options, "--cam_type", "png", "--cam_out_dir", "out", "--json", "scores.json"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["pixel_accuracy"] == pytest.approx(np.concatenate(right).mean(), abs=1e-9)
    assert scores["coverage"] == 1.0


def test_only_the_classes_that_labels_name(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: the best of the allowed maps; an image that the labels leave out fails, and the others are done."""
    from segmentor.prediction import probabilities
    from segmentor.settings import InferenceSettings
    from segmentor.weights import read_weights

    Path("classes.txt").write_text("red\nblue\n")
    Path("labels.csv").write_text("image,labels\ns0,blue\ns1,red;blue\ns2,red\n")
    options = ("--classes", "classes.txt", "--labels", "labels.csv")
    assert predict(weights, *options) == 3 and "s3" in capsys.readouterr().err
    network = read_weights(weights)[0]
    for image_id, allowed in (("s0", [0, 2]), ("s1", [0, 1, 2]), ("s2", [0, 1])):
        maps = probabilities(network, np.array(Image.open(f"images/{image_id}.png")), InferenceSettings("imagenet"))
        assert np.array_equal(np.array(mask(image_id)), np.array(allowed)[maps[allowed].argmax(axis=0)])
    assert predict(weights) == 2 and "labels given" in capsys.readouterr().err  # other settings
    Path("labels.csv").write_text("image,labels\ns0,red\ns1,red;blue\ns2,red\ns3,red\n")
    assert predict(weights, *options) == 2 and "the labels" in capsys.readouterr().err


def test_unsure_pixels_become_255(weights: Path) -> None:
    predict(weights)
    predict(weights, "--confidence", 0.999, "--out", "unsure")
    plain, unsure = np.array(mask("s0")), np.array(mask("s0", "unsure"))
    lost = unsure == 255
    assert 0 < lost.mean() < 1 and np.array_equal(plain[~lost], unsure[~lost])
    predict(weights, "--confidence", 1, "--out", "none")
    assert (np.array(mask("s0", "none")) == 255).mean() > lost.mean()


def test_the_crf_sharpens_probabilities(weights: Path) -> None:
    from segmentor.prediction import probabilities
    from segmentor.settings import InferenceSettings
    from segmentor.weights import read_weights

    assert predict(weights, "--crf", "--num_workers", 1) == 0
    image = np.array(Image.open("images/s1.png"))
    expected = dense_crf(image, probabilities(read_weights(weights)[0], image, InferenceSettings("imagenet"))).argmax(0)
    assert np.array_equal(np.array(mask("s1")), expected)


def test_finished_masks_are_kept(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(weights, "--flip", "--scales", 1, 0.5)
    before = {name: content for name, content in tree(tmp_path / "out").items() if name.endswith(".png")}
    (tmp_path / "out" / "s1.png").unlink()
    (tmp_path / "out" / "s2.png").write_bytes(before["s2.png"][:60])
    capsys.readouterr()
    assert predict(weights, "--flip", "--scales", 1, 0.5) == 0
    assert "2 masks written, 2 already there" in capsys.readouterr().out
    after = {name: content for name, content in tree(tmp_path / "out").items() if name.endswith(".png")}
    assert after == before


def test_a_replaced_photo_is_predicted_again(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another photo of the same name and size; the other masks are kept."""
    predict(weights)
    Path("images/s0.png").write_bytes(Path("images/s1.png").read_bytes())
    capsys.readouterr()
    assert predict(weights) == 0
    assert "1 mask written, 3 already there" in capsys.readouterr().out
    assert np.array_equal(np.array(mask("s0")), np.array(mask("s1")))


def test_other_settings_or_weights_are_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(weights) == 0
    assert predict(weights, "--flip") == 2
    assert "flip False (now True)" in capsys.readouterr().err
    other = networks.build("segformer-tiny", 3)
    write_weights(weights, other.state_dict(), Description("segformer-tiny", LABELS, "imagenet", 5))
    assert predict(weights) == 2
    assert re.search(r"weights \d+-\w{16} \(now \d+-\w{16}\)", capsys.readouterr().err)
    assert predict(weights, "--overwrite") == 0


def test_bad_images_fail_alone(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images" / "s1.png").write_bytes(b"broken")
    (tmp_path / "split.txt").write_text("s0\ns1\ns9\n")
    assert predict(weights, "--split_file", "split.txt") == 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["s0.png"]
    err = capsys.readouterr().err
    assert err.startswith("2 images failed:") and "s1.png" in err and "s9" in err


def test_large_images_are_worked_on_smaller(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(weights, "--max_pixels", 1000) == 0
    assert mask("s0").size == (72, 64)
    assert "4 images: worked on at a smaller size" in capsys.readouterr().out


def test_images_can_be_fitted_into_the_box_of_the_training(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(weights, "--resize", 200, 128) == 0
    assert "fitted into 200 x 128" in capsys.readouterr().out and mask("s0").size == (72, 64)
    assert predict(weights) == 2
    assert "resize [200, 128] (now None)" in capsys.readouterr().err


MISTAKES = [
    (["--weights", "none.safetensors"], r"none\.safetensors: no such weight file"),
    (["--weights", "masks/s0.png"], r"s0\.png: cannot be read as safetensors"),
    (["--img_root", "nowhere"], "--img_root nowhere: no such folder"),
    (["--classes", "other.txt"], "knows 3 other labels"),
    (["--dataset", "toyworld", "--split_file", "split.txt"], "knows 3 other labels"),
    (["--out", "weights.safetensors"], "--out weights.safetensors: cannot be written to"),
    (["--confidence", "95"], "confidence"),
    (["--scales", "0"], "scales"),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_is_one_line(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    (tmp_path / "other.txt").write_text("green\n")
    (tmp_path / "split.txt").write_text("s0\n")
    before = tree(tmp_path)
    try:
        code = predict(weights, *options)
    except SystemExit as ended:
        code = int(str(ended.code))
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: ") and re.search(words, err), err
    assert tree(tmp_path) == before
