#!/usr/bin/env bash
# SegCLIP without labels: its scores on a data set beside the published ones, pictures of photos and their groups; its
# pretraining on captions.
#   bash scripts/run_segclip.sh evaluate DATA_ROOT WEIGHTS [DATASET]
#   bash scripts/run_segclip.sh demo PHOTO WEIGHTS [DATASET]
#   bash scripts/run_segclip.sh pretrain CLIP DATA [options of scripts.pretrain_segclip]
# DATASET    voc12 (when not given), context60 or cocoobject
# DATA_ROOT  VOC2012, VOC2010 (with ImageSets/SegmentationContext) or COCO (with val2017); the masks of the last two
#            are prepared before, the script says how
# WEIGHTS    a SegCLIP checkpoint: the authors' segclip.bin, or weights of your own
# CLIP       what it starts from: OpenAI's ViT-B-16.pt, or any CLIP with a ViT
# DATA       a folder of images with captions (COCO's train2014; name its file: --captions dataset_coco.json), or a folder
#            of tar files as img2dataset writes them. Superpixels are made first: DATA-superpixels
# One process a GPU, as published with batches of 96 each (8 GPUs: 768 pairs a step)
set -euo pipefail
if [ $# -lt 3 ] || [[ ! $1 =~ ^(evaluate|demo|pretrain)$ ]]; then
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
fail() {
    echo "error: $1" >&2
    exit 2
}
if [ "$1" = pretrain ]; then
    [ -f "$2" ] || fail "CLIP $2: no such file; give the file itself (OpenAI's ViT-B-16.pt), not a name for open_clip"
    [ -d "$3" ] || fail "DATA $3: no such folder; expected images with captions, or tar files"
    clip=$(realpath "$2") data=$(realpath "$3")
    options=("${@:4}") number=0
    for option in "${options[@]}"; do # files are named from where the command was typed
        [ ! -f "$option" ] || options[number]=$(realpath "$option")
        number=$((number + 1))
    done
    cd "$(dirname "$0")/.."
    . scripts/setup.sh
    set_up requirements.txt
    gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
    out=$data-superpixels
    .venv/bin/python -m scripts.superpixels "$data" --out "$out" --num_workers "$(nproc)" || [ $? -eq 3 ]
    if compgen -G "$data/*.tar" >/dev/null; then data=$out; else options+=(--superpixels "$out"); fi
    .venv/bin/torchrun --nproc_per_node "$((gpus > 0 ? gpus : 1))" -m scripts.pretrain_segclip --data "$data" \
        --init "$clip" --out output/segclip "${options[@]}"
    exit
fi
dataset=${4:-voc12}
case $dataset in
voc12) images=JPEGImages list=ImageSets/Segmentation/val.txt raw= published=52.6 ;;
context60) images=JPEGImages list=ImageSets/SegmentationContext/val.txt raw=trainval published=24.7 ;;
cocoobject) images=val2017 list= raw=stuffthingmaps/val2017 published=26.5 ;;
*) fail "DATASET $dataset: expected voc12, context60 or cocoobject" ;;
esac
if [ "$1" = demo ]; then
    [ -f "$2" ] || fail "PHOTO $2: no such file"
    [ -f "$3" ] || fail "WEIGHTS $3: no such file; give a SegCLIP checkpoint"
    photo=$(realpath "$2") weights=$(realpath "$3")
    cd "$(dirname "$0")/.."
    . scripts/setup.sh
    set_up requirements.txt
    exec .venv/bin/python -m scripts.segment "$photo" --method segclip --model "$weights" --dataset "$dataset" \
        --vis input pred input_pred all_groups first_group final_group input_pred_label --out "output/$dataset/demo"
fi
[ -d "$2/$images" ] || fail "DATA_ROOT $2: no folder $images in it; see the head of this script for what it holds"
[ -f "$3" ] || fail "WEIGHTS $3: no such file; give a SegCLIP checkpoint"
[ -z "$list" ] || [ -f "$2/$list" ] || fail "$2/$list: no such file; it lists the images to be scored, one id a line"
data=$(realpath "$2")
weights=$(realpath "$3")
cd "$(dirname "$0")/.."
out=output/$dataset
split=$data/$list truth=$data/SegmentationClass
if [ -n "$raw" ]; then
    truth=$out/val_masks split=$out/val.txt
    if [ ! -d "$truth" ] || [ ! -f "$split" ]; then
        only=${list:+ --split_file $data/$list}
        command="python -m scripts.prepare_dense $dataset --raw $data/$raw$only"
        fail "$truth and $split: make them: $command --masks_out $truth --split_out $split"
    fi
fi
. scripts/setup.sh
set_up requirements.txt

python=.venv/bin/python
run=(--dataset "$dataset" --img_root "$data/$images" --split_file "$split" --labels all --cam_out_dir "$out/segclip")
"$python" generate_cams.py "${run[@]}" --method segclip --model "$weights"
"$python" eval_cam.py "${run[@]}" --gt_root "$truth" --absent union --json "$out/segclip/scores.json"
echo "published mIoU of $dataset: $published, with the authors' checkpoint; it was not reproduced here"
