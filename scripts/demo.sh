#!/usr/bin/env bash
# The main job on the embedded default: toy-world images -> CAMs -> masks -> scores and a preview in output/toyworld.
# Needs Python 3.10 to 3.13. Run it again and it re-uses what is there; OUT is not configurable on purpose.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements.txt

python=.venv/bin/python
out=output/toyworld
export PYTHONUNBUFFERED=1

"$python" generate_cams.py
"$python" eval_cam.py --cam_type highres --json $out/scores/cam.json
"$python" eval_cam.py --json $out/scores/attn.json
"$python" eval_cam_with_crf.py --json $out/scores/crf.json
"$python" -m scripts.collect_scores $out/scores --out $out/scores.json
"$python" -m scripts.preview --out $out/preview.png

cat <<END

look at   $out/preview.png    image, truth, CAM, refined CAM, CRF labels, mask
          $out/masks/         the masks, as a segmentation network reads them
          $out/scores.json    all scores
next      your own photos in VOC layout with your CLIP weights:
          .venv/bin/python generate_cams.py --dataset voc12 --img_root VOC2012/JPEGImages --model ViT-B-16.pt
          (or the whole recipe of the paper: bash scripts/run_voc12.sh VOC2012 ViT-B-16.pt)
END
