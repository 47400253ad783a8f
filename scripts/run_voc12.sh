#!/usr/bin/env bash
# The paper's recipe on PASCAL VOC 2012, its scores beside the published ones.
#   bash scripts/run_voc12.sh DATA_ROOT WEIGHTS [SPLIT_FILE]
# DATA_ROOT  VOC2012, with JPEGImages, Annotations, SegmentationClass, ImageSets
# WEIGHTS    a file: OpenAI's ViT-B-16.pt (or any CLIP with a ViT)
# SPLIT_FILE ImageSets/Segmentation/train.txt when not given (1,464 images, those of the published numbers)
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
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
