#!/usr/bin/env bash
# zsseg: masks of seen classes, learned prompts, its network, and its scores on val beside the published ones.
#   bash scripts/run_zsseg.sh DATA_ROOT WEIGHTS voc|cocostuff
# DATA_ROOT  VOC2012 (with SegmentationClassAug and train_aug.txt of scripts.prepare_voc12), or COCO (with train2017,
#            val2017 and stuffthingmaps/train2017, stuffthingmaps/val2017)
# WEIGHTS    a file: OpenAI's ViT-B-16.pt (or any CLIP; the published numbers are ViT-B/16's)
# Repeat it and it goes on where it stopped. In the environment, if you like:
#   NETWORK=R50              instead of R101c, which the published numbers are of
#   PRETRAINED=FILE|NAME     what its backbone starts from: detectron2's R-103.pkl for R101c, which must be given;
#                            R50 starts from torchvision's ResNet50_Weights.IMAGENET1K_V1
#   PROCESSES=8              of the training, one a GPU; the published batch is shared among them
#   ACCUMULATE=4             batches before the weights change, where a GPU cannot hold its share
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
fail() {
    echo "error: $1" >&2
    exit 2
}
case $3 in
voc)
    dataset=voc20 preset=voc-15 ensemble=0.7 images=JPEGImages val_images=JPEGImages val=val
    train=train lists=ImageSets/Segmentation raw=SegmentationClassAug val_raw=SegmentationClass
    published="seen 83.5, unseen 72.5, hIoU 77.5"
    ;;
cocostuff)
    dataset=cocostuff preset=coco-156 ensemble=0.8 images=train2017 val_images=val2017 val=val2017
    train=train2017 lists= raw=stuffthingmaps/train2017 val_raw=stuffthingmaps/val2017
    published="seen 39.3, unseen 36.3, hIoU 37.8"
    ;;
*) fail "DATASET $3: expected voc or cocostuff" ;;
esac
for folder in $images $val_images $raw $val_raw; do
    [ -d "$1/$folder" ] || fail "DATA_ROOT $1: no folder $folder in it; see the head of this script for what it holds"
done
[ -f "$2" ] || fail "WEIGHTS $2: no such file; give the file itself (OpenAI's ViT-B-16.pt), not a name for open_clip"
if [ -n "$lists" ]; then
    [ -f "$1/$lists/train_aug.txt" ] || fail "$1/$lists/train_aug.txt: no such file; make it: python -m scripts.prepare_voc12 --root $1"
    [ -f "$1/$lists/val.txt" ] || fail "$1/$lists/val.txt: no such file; it lists the images to be scored"
fi
network=${NETWORK:-R101c}
case $network in
R50) start=${PRETRAINED:-ResNet50_Weights.IMAGENET1K_V1} ;;
R101c) start=${PRETRAINED:-} ;;
*) fail "NETWORK $network: expected R50 or R101c" ;;
esac
[ -n "$start" ] || fail "PRETRAINED is needed for R101c: detectron2's DeepLab/R-103.pkl; or NETWORK=R50"
[ ! -e "$start" ] || start=$(realpath "$start")
data=$(realpath "$1")
weights=$(realpath "$2")
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements.txt

python=.venv/bin/python
out=output/$dataset
masks=$out/zsseg_masks prompts=$out/zsseg_prompts
net=$out/zsseg_$network
training=(--dataset "$dataset" --img_root "$data/$images" --masks "$masks/$train")
held_out=(--dataset "$dataset" --img_root "$data/$val_images" --labels all --cam_out_dir "$net/val")
start_training=("$python")
[ "${PROCESSES:-1}" = 1 ] || start_training=(.venv/bin/torchrun --nproc_per_node "$PROCESSES")
goes_on() { # a mask that shows no class is not written, and its image is listed as failed (exit code 3)
    "$@" || [ $? = 3 ]
}

if [ -n "$lists" ]; then
    training+=(--split_file "$data/$lists/train_aug.txt")
    held_out+=(--split_file "$data/$lists/val.txt")
    "$python" -m scripts.prepare_zsseg $dataset --raw "$data/$raw" --split train="$data/$lists/train_aug.txt" --out $masks
    "$python" -m scripts.prepare_zsseg $dataset --raw "$data/$val_raw" --split val="$data/$lists/val.txt" --out $masks
else
    "$python" -m scripts.prepare_zsseg $dataset --raw "$data/stuffthingmaps" --out $masks
fi
goes_on "$python" -m scripts.learn_prompts "${training[@]}" --model "$weights" --out $prompts
queries=() # published: VOC's queries are compared with one sentence, COCO-Stuff's with learned prompts
[ $dataset = voc20 ] || queries=(--prompts $prompts/prompts.safetensors)
goes_on "${start_training[@]}" -m scripts.train_zsseg "${training[@]}" --preset $preset-$network --clip "$weights" \
    "${queries[@]}" --pretrained "$start" --accumulate "${ACCUMULATE:-1}" --out "$net"
"$python" generate_cams.py "${held_out[@]}" --method zsseg --model "$weights" --prompts $prompts/prompts.safetensors \
    --proposals maskformer --maskformer "$net/weights.safetensors" --ensemble $ensemble
"$python" eval_cam.py "${held_out[@]}" --gt_root $masks/$val --absent union --splits --json "$net/scores.json"
echo "published mIoU with R101c: $published; it was not reproduced here"
