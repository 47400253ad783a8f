"""Networks of transformers, small and random, saved and loaded as people's are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file

from common.errors import UserError
from pipeline.steps.regions import RunLengths
from tests.small_sam import parts_of, sam3_vision, save_sam
from tests.support import photo
from zsseg.proposals import sam, universal
from zsseg.proposals.proposer import Photo

pytestmark = pytest.mark.slow  # to import these networks takes seconds
SIZE = (40, 60)
PHOTO = Photo("a", photo(SIZE, 4), SIZE)


def save_sam2(folder: Path) -> None:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[4],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone.to_dict(), backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=16,
    )  # fmt: skip
    prompts = transformers.Sam2PromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4)
    masks = transformers.Sam2MaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.Sam2Config(**parts_of(vision, prompts, masks))
    transformers.Sam2Model(config).save_pretrained(folder)
    sides = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    transformers.Sam2ImageProcessor(size=sides[0], mask_size=sides[1]).save_pretrained(folder)


def save_sam_hq(folder: Path) -> None:
    vision = transformers.SamHQVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
        mlp_dim=32, global_attn_indexes=[0], window_size=4, num_pos_feats=8,
    )  # fmt: skip
    prompts = transformers.SamHQPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    masks = transformers.SamHQMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16, vit_dim=16
    )
    transformers.SamHQModel(transformers.SamHQConfig(**parts_of(vision, prompts, masks))).save_pretrained(folder)
    sides = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    image = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size=sides[0], mask_size={"longest_edge": 16}, mask_pad_size=sides[1]
    )
    transformers.SamHQProcessor(image).save_pretrained(folder)  # the whole processor, as on the hub


def save_edgetam(folder: Path) -> None:
    backbone = transformers.TimmWrapperConfig(
        architecture="test_resnet", do_pooling=True,
        model_args={"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]},
    )  # fmt: skip
    vision = transformers.EdgeTamVisionConfig(
        backbone_config=backbone.to_dict(), backbone_channel_list=[96, 192, 48, 32],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=16,
    )  # fmt: skip
    prompts = transformers.EdgeTamPromptEncoderConfig(
        hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4
    )
    masks = transformers.EdgeTamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    transformers.EdgeTamModel(transformers.EdgeTamConfig(**parts_of(vision, prompts, masks))).save_pretrained(folder)
    sides = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    transformers.Sam2ImageProcessor(size=sides[0], mask_size=sides[1]).save_pretrained(folder)


def save_sam3_tracker(folder: Path) -> None:
    prompts = transformers.Sam3TrackerPromptEncoderConfig(
        hidden_size=16, image_size=56, patch_size=14, mask_input_channels=4
    )
    masks = transformers.Sam3TrackerMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.Sam3TrackerConfig(**parts_of(sam3_vision(), prompts, masks))
    transformers.Sam3TrackerModel(config).save_pretrained(folder)
    sides = {"height": 56, "width": 56}, {"height": 16, "width": 16}
    transformers.Sam3ImageProcessor(size=sides[0], mask_size=sides[1]).save_pretrained(folder)


@pytest.mark.parametrize("save", [save_sam, save_sam_hq, save_sam2, save_edgetam, save_sam3_tracker])
def test_masks_of_segment_anything(save: Callable[[Path], None], tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path)
    settings = sam.complete(sam.SamSettings(str(tmp_path), points=4, quality=0, stability=0))
    propose = sam.load(settings, torch.device("cpu"))
    found, again = propose(PHOTO), propose(PHOTO)
    assert isinstance(found, RunLengths) and found.size == SIZE and len(found) >= 1 and found == again
    assert found.planes(slice(None)).any(axis=(1, 2)).all() and settings.identity


SWIN = {"embed_dim": 32, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2, "image_size": 64}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIDES = {"size": {"shortest_edge": 64, "longest_edge": 96}}


def mask2former() -> tuple[torch.nn.Module, object]:
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN, out_features=STAGES), hidden_dim=32, mask_feature_size=32,
        feature_size=32, num_queries=6, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        encoder_feedforward_dim=16, dim_feedforward=16, num_labels=4,
    )  # fmt: skip
    network = transformers.Mask2FormerForUniversalSegmentation(config)
    return network, transformers.Mask2FormerImageProcessor(**SIDES)


def maskformer() -> tuple[torch.nn.Module, object]:
    decoder = transformers.MaskFormerDetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN, out_features=STAGES),
        fpn_feature_size=32,
        mask_feature_size=32,
        num_labels=4,
        decoder_config=decoder,
    )
    network = transformers.MaskFormerForInstanceSegmentation(config)
    return network, transformers.MaskFormerImageProcessor(**SIDES)


def eomt() -> tuple[torch.nn.Module, object]:
    config = transformers.EomtConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16, num_queries=6,
        num_blocks=1, num_labels=4, num_register_tokens=1, mlp_ratio=2,
    )  # fmt: skip
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    return transformers.EomtForUniversalSegmentation(config), processor


@pytest.mark.parametrize("make", [mask2former, maskformer, eomt])
def test_masks_of_a_ready_made_network(make: Callable[[], tuple[torch.nn.Module, object]], tmp_path: Path) -> None:
    """transformers' own processor and an interpolation give the same masks, up to its resampling."""
    torch.manual_seed(0)
    network, processor = make()
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = universal.load(universal.UniversalSettings(str(tmp_path), 0.0), torch.device("cpu"))(PHOTO)
    assert isinstance(found, RunLengths) and found.size == SIZE and len(found) <= 6
    padding = {"do_pad": True} if make is eomt else {"size_divisor": 32}
    inputs = processor(images=PHOTO.rgb, return_tensors="pt", **padding)
    with torch.no_grad():
        logits = network.eval()(pixel_values=inputs["pixel_values"]).masks_queries_logits
    padded = inputs["pixel_values"].shape[-2:]
    whole = torch.nn.functional.interpolate(logits, padded, mode="bilinear")[..., :64, :96]
    inside = whole[..., :43, :64] if make is eomt else whole
    wanted = torch.nn.functional.interpolate(inside, SIZE, mode="bilinear")[0].numpy() > 0
    wanted = wanted[wanted.any(axis=(1, 2))]
    assert (found.planes(slice(None)) == wanted).mean() > 0.99
    none = universal.load(universal.UniversalSettings(str(tmp_path), 1.0), torch.device("cpu"))(PHOTO)
    assert len(none) == 0


def test_what_is_no_such_network_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for weights, told in (
        (None, "--sam is needed: a folder with config.json"),
        (str(tmp_path), "a network of the kind bert; expected sam, sam_hq"),
        (str(tmp_path / "absent" / "x"), "no readable network on this machine"),
        (str(tmp_path / "config.json"), r"config\.json: a file; expected a folder with config\.json, preprocessor"),
    ):
        with pytest.raises(UserError, match=told) as raised:
            sam.load(sam.SamSettings(weights), torch.device("cpu"))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("save", [save_sam, save_sam_hq, save_sam2, save_edgetam, save_sam3_tracker])
def test_answers_to_prompts(save: Callable[[Path], None], tmp_path: Path) -> None:
    """Those of the library's own processor, which scales points and boxes itself, one prompt after the other."""
    torch.manual_seed(0)
    save(tmp_path)
    image = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    whole = transformers.SamProcessor(image) if save in (save_sam, save_sam_hq) else transformers.Sam2Processor(image)
    network = transformers.AutoModelForMaskGeneration.from_pretrained(tmp_path).eval()
    boxes = np.array([[5, 6, 30, 28], [20, 2, 59, 39], [0, 0, 12, 12]], np.float32)
    points = np.array([[10.5, 9.5], [40.5, 20.5], [3.5, 7.5]], np.float32)
    found = list(sam.answers(str(tmp_path), "cpu", PHOTO.rgb, boxes, points))
    assert len(found) == 3
    for (logits, quality), box, point in zip(found, boxes.tolist(), points.tolist()):
        inputs = whole(
            images=PHOTO.rgb, input_points=[[[point]]], input_labels=[[[1]]], input_boxes=[[box]], return_tensors="pt"
        )
        sizes = {key: inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes") if key in inputs}
        with torch.no_grad():
            answer = network(**inputs, multimask_output=False)
        (wanted,) = image.post_process_masks(answer.pred_masks, *sizes.values(), binarize=False)
        assert logits.shape == SIZE and np.abs(logits - wanted[0, 0].numpy()).max() < 1e-4 * wanted.abs().max()
        assert quality == pytest.approx(float(answer.iou_scores.flatten()[0]), abs=1e-4)


def test_weights_that_are_missing_are_one_line(tmp_path: Path) -> None:
    """No file of them, and a file that lacks one."""
    save_sam(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "mask_decoder" in name)
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"weight {name} is missing"):
        sam.load(sam.SamSettings(str(tmp_path)), torch.device("cpu"))
    file.unlink()
    with pytest.raises(UserError, match=r"no readable network in this folder; expected .*model.safetensors"):
        sam.load(sam.SamSettings(str(tmp_path)), torch.device("cpu"))


def test_weights_on_request_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("a gated repo") from GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refused)
    with pytest.raises(UserError, match=r"--sam some/sam3: its weights are given out on request only; .*put config"):
        sam.load(sam.SamSettings("some/sam3"), torch.device("cpu"))
