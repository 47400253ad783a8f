"""ADE20K as the scene-parsing challenge of 2016 has it: 150 classes."""

from dataset.spec import VOC_THRESHOLD, DatasetSpec, RawData, RawForm, in_order, prompts_with

# The challenge's order; of its groups of synonyms the name that mmsegmentation and MaskCLIP ask for.
CLASSES = tuple(
    "wall,building,sky,floor,tree,ceiling,road,bed,windowpane,grass,cabinet,sidewalk,person,earth,door,table,mountain,"
    "plant,curtain,chair,car,water,painting,sofa,shelf,house,sea,mirror,rug,field,armchair,seat,fence,desk,rock,"
    "wardrobe,lamp,bathtub,railing,cushion,base,box,column,signboard,chest of drawers,counter,sand,sink,skyscraper,"
    "fireplace,refrigerator,grandstand,path,stairs,runway,case,pool table,pillow,screen door,stairway,river,bridge,"
    "bookcase,blind,coffee table,toilet,flower,book,hill,bench,countertop,stove,palm,kitchen island,computer,"
    "swivel chair,boat,bar,arcade machine,hovel,bus,towel,light,truck,tower,chandelier,awning,streetlight,booth,"
    "television receiver,airplane,dirt track,apparel,pole,land,bannister,escalator,ottoman,bottle,buffet,poster,stage,"
    "van,ship,fountain,conveyer belt,canopy,washer,plaything,swimming pool,stool,barrel,basket,waterfall,tent,bag,"
    "minibike,cradle,oven,ball,food,step,tank,trade name,microwave,pot,animal,bicycle,lake,dishwasher,screen,blanket,"
    "sculpture,hood,sconce,vase,traffic light,tray,ashcan,fan,pier,crt screen,plate,monitor,bulletin board,shower,"
    "radiator,glass,clock,flag".split(",")
)

SPEC = DatasetSpec(
    name="ade20k",
    classes=CLASSES,
    prompts=prompts_with(CLASSES, {}),
    background_prompts=(),
    has_background=False,
    box_threshold=VOC_THRESHOLD,
    images="the folder of its images (images/training)",
    raw=RawData(
        holds="annotations (training and validation, or one of them) of ADEChallengeData2016.zip",
        forms=(RawForm(in_order(range(1, 151), (0,))),),
        counts={"training": 20_210, "validation": 2_000, "both": 22_210},
    ),
)
