#!/usr/bin/env bash
# The paper's recipe on PASCAL VOC 2012, its scores beside the published ones; then a network trained on the masks.
#   bash scripts/run_voc12.sh DATA_ROOT WEIGHTS [SPLIT_FILE]
# DATA_ROOT  VOC2012, with JPEGImages, Annotations, SegmentationClass, ImageSets
# WEIGHTS    a file: OpenAI's ViT-B-16.pt (or any CLIP with a ViT)
# SPLIT_FILE ImageSets/Segmentation/train.txt when not given (1,464 images, those of the published numbers)
# In the environment, if you like:
#   SEGMENTOR=no                      stop at the masks
#   ARCH=segformer-b0, PRETRAINED=DIR another network, and what it starts from where that cannot be downloaded
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
fail() {
    echo "error: $1" >&2
    exit 2
}
for folder in JPEGImages Annotations SegmentationClass; do
    [ -d "$1/$folder" ] || fail "DATA_ROOT $1: no folder $folder in it; give VOC2012 of VOCtrainval_11-May-2012.tar"
done
[ -f "$2" ] || fail "WEIGHTS $2: no such file; give the file itself (OpenAI's ViT-B-16.pt), not a name for open_clip"
[ $# -lt 3 ] || [ -f "$3" ] || fail "SPLIT_FILE $3: no such file; leave it out for ImageSets/Segmentation/train.txt"
split=${3:-$1/ImageSets/Segmentation/train.txt}
[ -f "$split" ] || fail "$split: no such file; make it: python -m scripts.prepare_voc12 --root $1"
val=$1/ImageSets/Segmentation/val.txt
if [ "${SEGMENTOR:-yes}" != no ] && [ ! -f "$val" ]; then
    fail "$val: no such file; the network is scored on it (or SEGMENTOR=no)"
fi
arch=${ARCH:-segformer-b2}
start=${PRETRAINED:-nvidia/mit-${arch#segformer-}}
[ ! -e "$start" ] || start=$(realpath "$start")
data=$(realpath "$1")
weights=$(realpath "$2")
split=$(realpath "$split")
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements.txt

python=.venv/bin/python
out=output/voc12
data_options=(--dataset voc12 --img_root "$data/JPEGImages" --split_file "$split" --cam_out_dir "$out/cams")
truth=(--gt_root "$data/SegmentationClass")

"$python" generate_cams.py "${data_options[@]}" --model "$weights"
"$python" eval_cam.py "${data_options[@]}" "${truth[@]}" --cam_type highres --json $out/scores/cam.json
"$python" eval_cam.py "${data_options[@]}" "${truth[@]}" --json $out/scores/attn.json
"$python" eval_cam_with_crf.py "${data_options[@]}" "${truth[@]}" --crf_image reference \
    --pseudo_mask_save_path $out/masks --json $out/scores/crf.json
"$python" -m scripts.collect_scores $out/scores --out $out/scores.json --published voc12
[ "${SEGMENTOR:-yes}" = no ] && exit 0

# A network learns from the masks of these images and is scored on val, whose labels it does not get.
val_options=(--dataset voc12 --img_root "$data/JPEGImages" --split_file "$data/ImageSets/Segmentation/val.txt")
"$python" -m scripts.train_segmentor --dataset voc12 --img_root "$data/JPEGImages" --split_file "$split" \
    --masks $out/masks --arch "$arch" --pretrained "$start" --resize 2048 512 \
    --out "$out/$arch"
"$python" -m scripts.predict_segmentor "${val_options[@]}" --weights "$out/$arch/weights.safetensors" \
    --resize 2048 512 --out "$out/$arch/val"
"$python" eval_cam.py "${val_options[@]}" "${truth[@]}" --cam_type png --cam_out_dir "$out/$arch/val" \
    --json "$out/$arch/scores.json"
