#!/usr/bin/env bash
# The main job on the embedded default: toy-world images -> CAMs -> masks -> scores and a preview in output/toyworld.
# Needs Python 3.10 to 3.13. Run it again and it re-uses what is there.
set -euo pipefail
if [ $# -gt 0 ]; then # it takes no arguments: --help, or a mistake
    sed -n '2,3s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
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
"$python" -m scripts.report --curve 20

cat <<END

look at   $out/report.html    every image, sortable, with scores; opens in a browser
          $out/preview.png    image, truth, CAM, refined CAM, CRF labels, mask
          $out/masks/         the masks, as a segmentation network reads them
          $out/scores.json    all scores
next      one photo of your own, with CLIP weights of your own (any words will do as labels):
          .venv/bin/python -m scripts.segment photo.jpg --labels dog person --model ViT-B-16.pt --out results
          a folder of photos, VOC or COCO: README.md, "Your own photos"
END
