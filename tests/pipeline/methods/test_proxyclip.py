"""ProxyCLIP and CLIP-ES's affinity by DINO: small random networks, saved and loaded as people's are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from benchmarks import plain_dense as plain
from clip.load import Clip
from common.errors import UserError
from dataset.spec import DatasetSpec
from pipeline.methods.clip_es import ClipEsSettings
from pipeline.methods.dino import network_of
from pipeline.methods.method import CamSettings
from pipeline.methods.table import METHODS, compute_maps
from pipeline.stages.cams import text_set
from pipeline.steps import affinity
from tests.support import Desk

pytestmark = pytest.mark.slow  # to import these networks takes seconds
CPU = torch.device("cpu")
CLASSES = ("cat", "dog", "bird")
SPEC = DatasetSpec("three", CLASSES, tuple((name,) for name in CLASSES), ("sky", "road"), True, 0.4)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}


def vit() -> torch.nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(**SIZES, intermediate_size=32, patch_size=4))


def dinov2() -> torch.nn.Module:
    return transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=2, patch_size=7))


def dinov2_with_registers() -> torch.nn.Module:
    config = transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, patch_size=7, num_register_tokens=4)
    return transformers.Dinov2WithRegistersModel(config)


def dinov3() -> torch.nn.Module:
    config = transformers.DINOv3ViTConfig(**SIZES, intermediate_size=32, patch_size=8, num_register_tokens=2)
    return transformers.DINOv3ViTModel(config)


MAKERS = [vit, dinov2, dinov2_with_registers, dinov3]


def saved(make: Callable[[], torch.nn.Module], folder: Path) -> Path:
    torch.manual_seed(0)
    network = make()
    for weight in network.parameters():
        weight.data += 0.3 * torch.randn_like(weight)  # else all patches are alike
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", MAKERS)
def test_proxyclip_by_a_transcription_window_by_window(
    make: Callable[[], torch.nn.Module], tmp_path: Path, tiny_clip: Clip
) -> None:
    """The network by itself, its class token and registers left out by their number."""
    folder = saved(make, tmp_path)
    method = METHODS["proxyclip"]
    own = method.settings(dino=str(folder), short_side=48, window=32, stride=16, templates="dataset", logit_scale=9.0)
    settings = CamSettings(method="proxyclip", options=method.complete(tiny_clip, SPEC, own))
    text = text_set(tiny_clip, SPEC, settings)
    images = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(3))
    found = compute_maps(tiny_clip, images, [(0, 2), (1,)], text, settings)
    network = make().eval()
    network.load_state_dict(transformers.AutoModel.from_pretrained(folder).state_dict())
    before = 1 + getattr(network.config, "num_register_tokens", 0)
    side = network.config.patch_size

    def leaving(state: plain.State, window: plain.Window) -> torch.Tensor:
        grid = tuple(-(-pixels // side) for pixels in window.image.shape[1:])
        rgb = window.image * torch.tensor(plain.STD)[:, None, None] + torch.tensor(plain.MEAN)[:, None, None]
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        pixels = F.interpolate(
            ((rgb - mean[:, None, None]) / std[:, None, None])[None],
            size=(grid[0] * side, grid[1] * side),
            mode="bilinear",
            antialias=True,
        )
        more = {"interpolate_pos_encoding": True} if make is vit else {}
        return plain.proxyclip(state, window, network(pixels, **more).last_hidden_state[0, before:], grid)

    state, constants = tiny_clip.model.state_dict(), plain.Constants(window=32, stride=16, scale=9.0)
    for image, present, (maps, _) in zip(images, [(0, 2), (1,)], found):
        words, owners = text.words_of(present)
        cosines = plain.image_cosines(state, leaving, image, words, owners, constants)[None]
        shares = (9 * F.interpolate(cosines, size=maps.shape[1:], mode="bilinear")[0]).softmax(dim=0)
        background = shares[:2].amax(dim=0)
        assert torch.allclose(maps, (shares[2:] / background).log(), atol=2e-3) and maps.std() > 1e-3


def test_the_affinity_of_clip_es(tmp_path: Path, tiny_clip: Clip) -> None:
    """DINO's rows in place of CLIP's, or both at once; the maps before the affinity stay."""
    folder = str(saved(dinov3, tmp_path))
    images = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(4))
    results = {}
    for name in ("clip", "dino", "both"):
        options = METHODS["clip-es"].complete(
            tiny_clip, SPEC, ClipEsSettings(affinity=name, dino=None if name == "clip" else folder)
        )
        settings = CamSettings(options=options)
        text = text_set(tiny_clip, SPEC, settings)
        results[name] = compute_maps(tiny_clip, images, [(0, 1), (2,)], text, settings)
    features = network_of(folder, CPU).features(images, (4, 5))
    for index in range(2):
        cams, refined = results["dino"][index]
        assert torch.equal(cams, results["clip"][index][0])
        similar = features[index] @ features[index].T
        sharp = 3 * (similar - 1.2 * similar.mean())
        sharp[(sharp < 0) & (torch.eye(20) == 0)] = -1e9
        (wanted,) = affinity.refine([sharp.softmax(dim=-1)], [cams], 0.4)
        assert torch.allclose(refined, wanted, atol=1e-4)
        assert not torch.allclose(refined, results["both"][index][1], atol=1e-3)
        assert not torch.allclose(results["clip"][index][1], results["both"][index][1], atol=1e-3)


def test_by_the_commands_and_what_is_recorded(desk: Desk, quick_crf: None, tmp_path: Path) -> None:
    folder = saved(vit, tmp_path / "dino")
    own = ("--short_side", 48, "--window", 32, "--stride", 16, "--templates", "dataset", "--labels", "all")
    ended = desk.run("generate_cams", "--method", "proxyclip", "--dino", folder, *own)
    assert ended.code == 0 and f"dino {folder}" in ended.out, ended.err
    with np.load(desk.cams / "a.npz") as stored:
        assert f'"dino": "{folder}"' in str(stored["made_by"])
    assert desk.run("eval_cam").code == 0
    shutil.rmtree(folder)
    saved(dinov3, folder)
    network_of.cache_clear()
    ended = desk.run("generate_cams", "--method", "proxyclip", "--dino", folder, *own)
    assert ended.code == 2 and "identity" in ended.err  # other weights in the same place
    ended = desk.run("generate_cams", "--affinity", "both", "--dino", folder, "--overwrite")
    assert ended.code == 0, ended.err


def test_what_is_no_network_is_one_line(tmp_path: Path, desk: Desk) -> None:
    network_of.cache_clear()
    (tmp_path / "empty").mkdir()
    whole = saved(vit, tmp_path / "vit")
    (tmp_path / "no_weights").mkdir()
    shutil.copy(whole / "config.json", tmp_path / "no_weights")
    bert = transformers.BertModel(
        transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    bert.save_pretrained(tmp_path / "bert")
    expected = "expected config.json and model.safetensors"
    for name, words in {"empty": expected, "no_weights": expected, "bert": "a network of the kind bert"}.items():
        with pytest.raises(UserError, match=words):
            network_of(str(tmp_path / name), CPU)
    saved(dinov2, tmp_path / "other")
    shutil.copy(whole / "config.json", tmp_path / "other")  # weights of another network
    with pytest.raises(UserError, match=r"is missing|no readable network"):
        network_of(str(tmp_path / "other"), CPU)
    for more, words in {
        ("--method", "proxyclip"): "--dino is needed: a folder with config.json and model.safetensors, or a name",
        ("--affinity", "dino"): "--dino is needed",
        ("--dino", "x"): "--dino x: only read with --affinity dino",
    }.items():
        ended = desk.run("generate_cams", *more)
        assert ended.code == 2 and words in ended.err and len(ended.err.splitlines()) == 1
