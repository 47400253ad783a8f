"""The toy world as a data set: its classes, prompts, seeds and files."""

from pathlib import Path

from dataset.spec import VOC, VOC_THRESHOLD, DatasetSpec, prompts_with
from toyworld.names import BACKGROUNDS as BACKGROUNDS
from toyworld.names import CLASSES as CLASSES

DEMO = Path("output/toyworld/data")  # below the working folder
WEIGHTS = Path(__file__).with_name("clip.pt")

# Every set is drawn from a seed of its own: what is shown or scored was never trained on.
DEMO_SEED, DEMO_COUNT = 2025, 60
VALIDATION_SEED, VALIDATION_COUNT = 777, 100  # settings (box threshold, recipe) were chosen on this one
TEST_SEEDS, TEST_COUNT = (9701, 9702, 9703), 100  # read once, for the table in the README
COMPARE_TRAINING = (3001, 1200)  # seed and count of scripts/compare_toyworld.sh: what networks are trained on,
COMPARE_HELD_OUT = (9301, 100)  # and what is scored; the networks' recipe was chosen on seed 778, trained on seed 31
TRAINING_SEEDS = (11, 12, 13)  # one a phase of scripts/train_toyworld_clip.py


def demo_images() -> Path:
    """The folder of the demo images, which are made when their split file, the last file written, is not there."""
    if not (DEMO / "ImageSets" / "Segmentation" / "train.txt").is_file():
        from toyworld.layout import write_dataset

        print(f"making {DEMO_COUNT} toy-world images (seed {DEMO_SEED}) in {DEMO}")
        write_dataset(DEMO, DEMO_SEED, DEMO_COUNT)
    return DEMO / "JPEGImages"


SPEC = DatasetSpec(
    name="toyworld",
    classes=CLASSES,
    prompts=prompts_with(CLASSES, {}),
    background_prompts=BACKGROUNDS,
    has_background=True,
    box_threshold=VOC_THRESHOLD,
    maskclip_frame=(),  # its CLIP was trained at about this size
    unseen=(6, 7),  # ball and tree: hidden from what trains on masks; the CLIP saw all eight
    layout=VOC,
    images="its JPEGImages folder",
    make_images=demo_images,
    clip=(str(WEIGHTS), None),
)
