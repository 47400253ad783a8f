"""Zero-shot masks of held-out images by a network that is being pretrained, as --method segclip makes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clip.image import prepare_image
from clip.model import Texts
from clip.text import encode_prompts
from common.errors import UserError
from common.images import read_image
from common.parallel import ordered_map
from dataset.mask_folder import Masks
from dataset.spec import DatasetSpec
from dataset.voc_layout import find_image
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.segclip import METHOD, SegClipSettings
from pipeline.stages.evaluate import check_shape, read_truth
from pipeline.steps.maps import resize_maps
from pipeline.steps.masks import contest, labels_of
from pipeline.steps.scores import confusion_matrix, scores_of
from pipeline.steps.tensors import to_numpy
from segclip.load import GroupingClip
from segclip.network import SegClip
from training.ranks import Ranks

NAMES = ("miou", "pixel_accuracy", "mean_accuracy")


@dataclass(frozen=True)
class HeldOut:
    """The images to validate on, the folders of them and of their masks, and how they are asked about.

    activation  of the network's MLPs
    options     of --method segclip, complete
    """

    spec: DatasetSpec
    ids: Sequence[str]
    images: Path
    truth: Masks
    activation: str
    options: SegClipSettings

    @torch.no_grad()
    def __call__(self, network: SegClip, ranks: Ranks) -> tuple[dict[str, float], dict[str, str]]:
        """Scores by name over all ranks, and by id why images of this rank could not be scored.

        network  in evaluation mode
        """
        clip = GroupingClip(network.clip, Texts(network.clip, {}), "", self.activation, "")  # type: ignore[arg-type]
        words = METHOD.words(self.spec, self.options)
        texts = encode_prompts(clip, words.sentences(), unit=words.unit)
        text = TextSet(texts[: len(self.spec.prompts)], texts[len(self.spec.prompts) :])
        labels = self.spec.num_labels
        confusion, failures = np.zeros((labels, labels + 1), np.int64), {}
        ids = self.ids[ranks.index :: ranks.count]
        for image_id, read in zip(ids, ordered_map(self._read, ids, 2)):
            if isinstance(read, str):
                failures[image_id] = read
            else:
                confusion += confusion_matrix(read[1], self._labels(clip, read[0], text), labels)
        scores = scores_of(ranks.sum(torch.from_numpy(confusion)).cpu().numpy())
        return {name: float(getattr(scores, name)) for name in NAMES}, failures

    def _read(self, image_id: str) -> tuple[np.ndarray, np.ndarray] | str:
        """Image and ground truth, or why they cannot be used."""
        try:
            path = find_image(self.images, image_id)
            truth = read_truth(self.truth, image_id, self.spec.num_labels)
            image = np.asarray(read_image(path))
            check_shape(path, image.shape[:2], truth)
            return image, truth
        except UserError as error:
            return str(error)

    def _labels(self, clip: GroupingClip, image: np.ndarray, text: TextSet) -> np.ndarray:
        """(H, W) uint8 labels of an (H, W, 3) uint8 image; all classes of the data set are asked for."""
        from PIL import Image

        keys, settings = np.arange(len(self.spec.classes)), CamSettings(method="segclip", options=self.options)
        prepared = prepare_image(Image.fromarray(image), clip.patch_size, None, METHOD.preparation(clip, self.options))
        maps = METHOD.maps(clip, prepared[None].to(clip.device), [keys.tolist()], text, settings)[0][1]
        resized = resize_maps(to_numpy(maps), image.shape[:2])
        background = self.spec.has_background
        return labels_of(contest(resized, METHOD.kind(self.options), background), keys, background)
