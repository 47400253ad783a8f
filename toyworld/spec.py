"""The toy world as a data set: its classes, prompts, seeds and files."""

from pathlib import Path

from dataset.spec import DatasetSpec, prompts_with

CLASSES = ("house", "car", "fish", "cup", "flower", "boat", "ball", "tree")
BACKGROUNDS = ("grass", "sky", "water", "sand", "brick", "road")

WEIGHTS = Path(__file__).with_name("clip.pt")

# Every set is drawn from a seed of its own: what is shown or scored was never trained on.
DEMO_SEED, DEMO_COUNT = 2025, 60
VALIDATION_SEED, VALIDATION_COUNT = 777, 100  # settings (box threshold, recipe) were chosen on this one
TEST_SEEDS, TEST_COUNT = (9501, 9502, 9503), 100  # read once, for the table in the README
COMPARE_TRAINING = (3001, 1200)  # seed and count of scripts/compare_toyworld.sh: what networks are trained on,
COMPARE_HELD_OUT = (9301, 100)  # and what is scored; the networks' recipe was chosen on seed 778, trained on seed 31
TRAINING_SEEDS = (11, 12, 13, 14)  # one a phase of scripts/train_toyworld_clip.py, the last for the affinity

SPEC = DatasetSpec(
    name="toyworld",
    classes=CLASSES,
    prompts=prompts_with(CLASSES, {}),
    background_prompts=BACKGROUNDS,
    has_background=True,
    box_threshold=0.4,
    maskclip_frame=(),  # its CLIP was trained at about this size
)
