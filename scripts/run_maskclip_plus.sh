#!/usr/bin/env bash
# MaskCLIP+ without annotations: CLIP labels while a network learns. Its scores on val beside the published ones.
#   bash scripts/run_maskclip_plus.sh DATA_ROOT WEIGHTS [DATASET]
# DATASET    voc20 (when not given), context59 or cocostuff
# DATA_ROOT  VOC2012 (with train_aug.txt of scripts.prepare_voc12), VOC2010 (with ImageSets/SegmentationContext), or
#            COCO (with train2017 and val2017); masks of val are prepared before, the script says how
# WEIGHTS    a file: OpenAI's ViT-B-16.pt (or any CLIP; the published numbers are ViT-B/16's)
# In the environment, if you like:
#   ARCH=deeplabv3-resnet101  instead of segformer-b5, with the schedule that was published for DeepLab
#   PRETRAINED=DIR|FILE       what it starts from, where nvidia/mit-b5 or torchvision's weights cannot be downloaded
#   MASKS=DIR                 masks of the training images (scripts.prepare_dense), of which only what is 255 is looked
#                             at: the published setting, which knows where the background is. Else no mask is read
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
fail() {
    echo "error: $1" >&2
    exit 2
}
dataset=${3:-voc20}
arch=${ARCH:-segformer-b5}
list= crop=512 resize=(2048 512)
case $dataset in # iterations of DeepLab as published; SegFormer was published for Context only, with twice as many
voc20)
    images=JPEGImages val_images=JPEGImages list=ImageSets/Segmentation/train_aug.txt iterations=2000
    raw=SegmentationClass val_list=ImageSets/Segmentation/val.txt
    published="MaskCLIP, the teacher: 49.5; MaskCLIP+ with DeepLabV2: 58.0 (RN50 teaches), 67.5 (RN50x16)"
    ;;
context59)
    images=JPEGImages val_images=JPEGImages list=ImageSets/SegmentationContext/train.txt iterations=4000
    raw=trainval val_list=ImageSets/SegmentationContext/val.txt
    crop=480 resize=(520 520)
    published="MaskCLIP, the teacher: 21.7; MaskCLIP+: 31.1 (DeepLabV2), 33.9 (SegFormer-b5)"
    ;;
cocostuff)
    images=train2017 val_images=val2017 iterations=8000
    raw=stuffthingmaps/val2017 val_list=
    published="MaskCLIP, the teacher: 12.5; MaskCLIP+ with DeepLabV2: 18.0"
    ;;
*) fail "DATASET $dataset: expected voc20, context59 or cocostuff" ;;
esac
case $arch in
segformer-*)
    iterations=$((2 * iterations))
    start=nvidia/mit-${arch#segformer-}
    learning=(--optimizer adamw --lr 2.4e-5 --weight_decay 0.004 --warmup 1500)
    ;;
deeplabv3-*)
    start=ResNet${arch#deeplabv3-resnet}_Weights.IMAGENET1K_V1
    learning=(--optimizer sgd --lr 0.005 --weight_decay 2.5e-4)
    ;;
*) fail "ARCH $arch: expected segformer-b0 to b5, deeplabv3-resnet50 or deeplabv3-resnet101" ;;
esac
start=${PRETRAINED:-$start}
[ ! -e "$start" ] || start=$(realpath "$start")
[ -d "$1/$images" ] || fail "DATA_ROOT $1: no folder $images in it; see the head of this script for what it holds"
[ -d "$1/$val_images" ] || fail "DATA_ROOT $1: no folder $val_images in it"
[ -f "$2" ] || fail "WEIGHTS $2: no such file; give the file itself (OpenAI's ViT-B-16.pt), not a name for open_clip"
[ -z "$list" ] || [ -f "$1/$list" ] || fail "$1/$list: no such file; it lists the training images, one id a line"
[ -z "${MASKS:-}" ] || [ -d "$MASKS" ] || fail "MASKS $MASKS: no such folder"
data=$(realpath "$1")
weights=$(realpath "$2")
masks=${MASKS:+$(realpath "$MASKS")}
cd "$(dirname "$0")/.."
out=output/$dataset
truth=$out/val_masks
if [ ! -d "$truth" ] || [ ! -f "$out/val.txt" ]; then
    only=${val_list:+ --split_file $data/$val_list}
    command="python -m scripts.prepare_dense $dataset --raw $data/$raw$only"
    fail "$truth and $out/val.txt: make them: $command --masks_out $truth --split_out $out/val.txt"
fi
. scripts/setup.sh
set_up requirements.txt

python=.venv/bin/python
network=$out/maskclip_plus-$arch
supervision=(--teacher maskclip --teacher_padding ${masks:+--masks "$masks" --unlabelled all})
val=(--dataset "$dataset" --img_root "$data/$val_images" --split_file "$out/val.txt")

"$python" -m scripts.train_segmentor --dataset "$dataset" --img_root "$data/$images" \
    ${list:+--split_file "$data/$list"} "${supervision[@]}" --clip "$weights" --head text \
    --arch "$arch" --pretrained "$start" "${learning[@]}" --max_iters $iterations --batch_size 8 --loss_over all \
    --crop $crop --resize "${resize[@]}" --out "$network"
"$python" -m scripts.predict_segmentor "${val[@]}" --weights "$network/weights.safetensors" \
    --resize "${resize[@]}" --out "$network/val"
"$python" eval_cam.py "${val[@]}" --cam_type png --cam_out_dir "$network/val" --gt_root "$truth" --absent union \
    --json "$network/scores.json"
echo "published mIoU, ViT-B/16 where nothing else is said, with the background of the training images known: $published"
