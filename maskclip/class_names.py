"""Class names of the three data sets that MaskCLIP was published with, as its prompts say them. Imports nothing.

Label order of the data sets, background left out (other_systems section 0.3).
"""

VOC20 = tuple(
    "airplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,dining table,dog,horse,motorbike,person,potted plant,"
    "sheep,sofa,train,tv monitor".split(",")
)

CONTEXT59 = tuple(
    "airplane,bag,bed,bedclothes,bench,bicycle,bird,boat,book,bottle,building,bus,cabinet,car,cat,ceiling,chair,cloth,"
    "computer,cow,cup,curtain,dog,door,fence,floor,flower,food,grass,ground,horse,keyboard,light,motorbike,mountain,"
    "mouse,person,plate,platform,potted plant,road,rock,sheep,shelves,sidewalk,sign,sky,snow,sofa,table,track,train,"
    "tree,truck,tv monitor,wall,water,window,wood".split(",")
)

COCO_THINGS80 = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush".split(",")
)

# The 91 of COCO-Stuff; 29 of them said in another way than the data set spells them ("wall-tile": "tile wall").
COCO_STUFF91 = tuple(
    "banner,blanket,branch,bridge,building,bush,cabinet,cage,cardboard,carpet,ceiling,tile ceiling,cloth,clothes,"
    "clouds,counter,cupboard,curtain,desk,dirt,door,fence,marble floor,floor,stone floor,tile floor,wood floor,"
    "flower,fog,food,fruit,furniture,grass,gravel,ground,hill,house,leaves,light,mat,metal,mirror,moss,mountain,mud,"
    "napkin,net,paper,pavement,pillow,plant,plastic,platform,playingfield,railing,railroad,river,road,rock,roof,rug,"
    "salad,sand,sea,shelf,sky,skyscraper,snow,solid,stairs,stone,straw,structural,table,tent,textile,towel,tree,"
    "vegetable,brick wall,concrete wall,wall,panel wall,stone wall,tile wall,wood wall,water,waterdrops,"
    "blind window,window,wood".split(",")
)
STUFF171 = COCO_THINGS80 + COCO_STUFF91

CLASSES = {"voc": VOC20, "context": CONTEXT59, "stuff": STUFF171}
