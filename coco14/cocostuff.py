"""COCO-Stuff: COCO's 80 things and 91 kinds of stuff (Caesar et al., CVPR 2018)."""

from coco14.spec import CLASSES as THINGS
from coco14.spec import OFFICIAL_NAMES
from dataset.spec import DatasetSpec, RawData, RawForm, in_order, prompts_with

STUFF = tuple(
    "banner blanket branch bridge building-other bush cabinet cage cardboard carpet ceiling-other ceiling-tile cloth "
    "clothes clouds counter cupboard curtain desk-stuff dirt door-stuff fence floor-marble floor-other floor-stone "
    "floor-tile floor-wood flower fog food-other fruit furniture-other grass gravel ground-other hill house leaves "
    "light mat metal mirror-stuff moss mountain mud napkin net paper pavement pillow plant-other plastic platform "
    "playingfield railing railroad river road rock roof rug salad sand sea shelf sky-other skyscraper snow solid-other "
    "stairs stone straw structural-other table tent textile-other towel tree vegetable wall-brick wall-concrete "
    "wall-other wall-panel wall-stone wall-tile wall-wood water-other waterdrops window-blind window-other wood".split()
)
_OFFICIAL = {ours: theirs for theirs, ours in OFFICIAL_NAMES.items()}
CLASSES = (*(_OFFICIAL.get(name, name) for name in THINGS), *STUFF)


def spoken(name: str) -> str:
    """How prompts say a class: "wall-brick" is a brick wall, "door-stuff" and "food-other" are a door and food."""
    thing, _, which = name.partition("-")
    return thing if which in ("", "other", "stuff") else f"{which} {thing}"


UNSEEN = (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160)  # zero-shot split of SPNet (2019)
NEVER_USED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}  # of the raw values 0 to 181
USED = sorted(set(range(182)) - NEVER_USED)

SPEC = DatasetSpec(
    name="cocostuff",
    classes=CLASSES,
    prompts=prompts_with(CLASSES, {name: spoken(name) for name in STUFF}),
    background_prompts=(),
    has_background=False,
    box_threshold=0.7,  # that of the same images in coco14
    unseen=UNSEEN,  # cow to wall-concrete
    unseen_sets=(
        ("novel_thing", tuple(index for index in UNSEEN if index < len(THINGS))),
        ("novel_stuff", tuple(index for index in UNSEEN if index >= len(THINGS))),
    ),
    numbers=tuple(value + 1 for value in USED),
    images="the folder of COCO's images (train2017)",
    raw=RawData(
        holds="stuffthingmaps (train2017 and val2017, or one of them) of stuffthingmaps_trainval2017.zip",
        forms=(RawForm(in_order(USED, (255,)), beside=("TrainIds.png",)),),
        counts={"train2017": 118_287, "val2017": 5_000, "both": 123_287},
    ),
)
