"""What several tests build: a tiny CLIP, a small data set in VOC layout, and a way to run a command in process."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clip.archive import Weights
from clip.load import Clip, clip_of
from clip.transformer import BlockSizes, TextSizes, TextTransformer, Transformer, VisionTransformer, VitSizes

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PATCH = 8


class TinyModel(TextTransformer):
    """Both towers, so that the state dict has OpenAI's names."""

    def __init__(self, vision: VitSizes, text: TextSizes, activation: str) -> None:
        super().__init__(text, activation)
        self.visual = VisionTransformer(vision, activation)
        self.logit_scale = torch.nn.Parameter(torch.tensor(np.log(1 / 0.07)).float())


@torch.no_grad()
def tiny_model(
    seed: int = 0,
    layers: int = 3,
    width: int = 64,
    patch: int = PATCH,
    grid: int = 4,
    quick_gelu: bool = True,
    head_width: int = 64,
    mlp_ratio: float = 4.0,
    text_layers: int = 2,
) -> TinyModel:
    """A random CLIP in evaluation mode, small but with every part; its weights are far from their start."""
    vision_blocks = BlockSizes(layers, width, width // head_width, int(width * mlp_ratio))
    text_blocks = BlockSizes(text_layers, 64, 1, 256)
    activation = "quick_gelu" if quick_gelu else "gelu"
    model = TinyModel(VitSizes(vision_blocks, patch, grid, 32), TextSizes(text_blocks, 77, 49408, 32), activation)
    torch.manual_seed(seed)  # then drawn in the order in which open_clip draws: tests know what these models give
    visual, scale = model.visual, width**-0.5
    visual.conv1.reset_parameters()
    visual.class_embedding.copy_(scale * torch.randn(width))
    visual.positional_embedding.copy_(scale * torch.randn(grid * grid + 1, width))
    visual.transformer = Transformer(vision_blocks, activation)
    visual.proj.copy_(scale * torch.randn(width, 32))
    model.token_embedding.reset_parameters()
    model.transformer = Transformer(text_blocks, activation)
    model.token_embedding.weight.normal_(std=0.02)
    model.positional_embedding.normal_(std=0.01)
    for block in model.transformer.resblocks:
        block.attn.in_proj_weight.normal_(std=64**-0.5)
        block.attn.out_proj.weight.normal_(std=64**-0.5 * (2 * text_layers) ** -0.5)
        block.mlp.c_fc.weight.normal_(std=128**-0.5)
        block.mlp.c_proj.weight.normal_(std=64**-0.5 * (2 * text_layers) ** -0.5)
    model.text_projection.normal_(std=64**-0.5)
    for name, weight in model.named_parameters():
        if name.startswith("visual.transformer"):  # otherwise every block would be close to the identity
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval().requires_grad_(False)


def clip_from(state: Mapping[str, torch.Tensor], name: str = "tiny", activation: str = "quick_gelu") -> Clip:
    """The Clip that has these weights. Its weights are its own."""
    weights = Weights({key: value.clone() for key, value in state.items()}, "state_dict", "0123456789abcdef")
    return clip_of(weights, name, activation, name)


def openai_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as OpenAI's files hold it: float16 but for the logit scale."""
    return {key: value if key == "logit_scale" else value.half() for key, value in model.state_dict().items()}


def openai_file(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The same with the bookkeeping that tells OpenAI's own files."""
    return {**openai_state(model), "input_resolution": torch.tensor(224)}


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    """(H, W, 3) uint8: soft coloured blobs, nothing symmetric."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def annotation(names: Sequence[str]) -> str:
    return f"<annotation>{''.join(f'<object><name>{name}</name></object>' for name in names)}</annotation>"


def write_world(root: Path, scenes: Mapping[str, tuple[tuple[int, int], Sequence[str]]]) -> Path:
    """A data set in VOC layout from {id: ((H, W), class names)}; the masks hold 0, 1, 15 and 255. Returns the root."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (image_id, (size, names)) in enumerate(scenes.items()):
        Image.fromarray(photo(size, seed)).save(root / "JPEGImages" / f"{image_id}.jpg", quality=95)
        (root / "Annotations" / f"{image_id}.xml").write_text(annotation(names))
        truth = np.random.default_rng(seed).choice(np.array([0, 1, 15, 255], np.uint8), size)
        Image.fromarray(truth).save(root / "SegmentationClass" / f"{image_id}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{image_id}\n" for image_id in scenes))
    return root


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


class Desk:
    """A small data set, weights and the options of each command."""

    def __init__(self, root: Path, weights: Path, command: Command) -> None:
        self.root, self.weights, self.command = root, weights, command
        scenes = {"a": ((24, 33), ["aeroplane", "person"]), "b": ((24, 32), ["dog"]), "c": ((17, 40), [])}
        self.data = write_world(root / "VOC2012", scenes)
        self.cams, self.masks = root / "cams", root / "masks"

    @property
    def split(self) -> Path:
        return self.data / "ImageSets/Segmentation/train.txt"

    def image(self, image_id: str) -> Path:
        return self.data / "JPEGImages" / f"{image_id}.jpg"

    def xml(self, image_id: str) -> Path:
        return self.data / "Annotations" / f"{image_id}.xml"

    def options(self, name: str) -> list[object]:
        options: list[object] = ["--dataset", "voc12", "--img_root", self.data, "--cam_out_dir", self.cams]
        if name == "generate_cams":
            return [*options, "--model", self.weights, "--device", "cpu"]
        return [*options, "--pseudo_mask_save_path", self.masks] if name == "eval_cam_with_crf" else options

    def run(self, name: str, *more: object) -> Ended:
        """With all options; a later one of the same name wins."""
        return self.command(name, *self.options(name), *more)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def bilinear(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, ...) to (H, W, ...), pixel by pixel: sample where the pixel's centre falls, the border repeated."""
    height, width = size
    out = np.empty((height, width, *grid.shape[2:]))
    for y in range(height):
        for x in range(width):
            v = np.clip((y + 0.5) * grid.shape[0] / height - 0.5, 0, grid.shape[0] - 1)
            u = np.clip((x + 0.5) * grid.shape[1] / width - 0.5, 0, grid.shape[1] - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
            upper = grid[top, left] * (1 - (u - left)) + grid[top, right] * (u - left)
            lower = grid[bottom, left] * (1 - (u - left)) + grid[bottom, right] * (u - left)
            out[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return out


def replace_photo(path: Path) -> None:
    """Another photo of the same name, size in pixels, length in bytes and modification time, of another content."""
    before, length = path.stat(), path.stat().st_size
    with Image.open(path) as image:
        size = (image.height, image.width)
    for quality in range(90, 0, -5):
        Image.fromarray(photo(size, 77)).save(path, quality=quality)
        if path.stat().st_size <= length:
            break
    path.write_bytes(path.read_bytes().ljust(length, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == length and np.array(Image.open(path)).shape[:2] == size
