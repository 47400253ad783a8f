#!/usr/bin/env bash
# What a second round (scripts/second_round.sh) is worth on the toy world: CLIP-ES' masks after the CRF against those of
# a network that learned from them, of the same scenes with the same labels, three times. 255s are not counted: every
# pixel has its likeliest label in both.
#   bash benchmarks/second_round.sh [OUT]      output/second_round when not given
# Repeat it and it goes on where it stopped. In the environment: SEEDS="9801 9802 9803", COUNT=500 scenes, TRAIN="..."
set -euo pipefail
case ${1:-} in -*) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;; esac
out=$(realpath -m "${1:-output/second_round}")
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements.txt
python=.venv/bin/python
recipe="--arch segformer-tiny --max_iters 1500 --crop 96 --scales 0.75 1.5 --no_colours --lr 2e-3 --head_lr 1"
export CONFIDENCE=0 TRAIN=${TRAIN:-"$recipe --weight_decay 0.01 --warmup 100 --ema 0.99"} LOOK="--flip --scales 1 1.5"

for seed in ${SEEDS:-9801 9802 9803}; do
    scenes=$out/$seed
    data=(--dataset toyworld --img_root "$scenes/JPEGImages")
    [ -e "$scenes/captions.jsonl" ] || "$python" -m scripts.make_toyworld --out "$scenes" --seed "$seed" --count "${COUNT:-500}"
    "$python" generate_cams.py "${data[@]}" --cam_out_dir "$scenes/cams"
    "$python" eval_cam_with_crf.py "${data[@]}" --cam_out_dir "$scenes/cams" --pseudo_mask_save_path "$scenes/masks" \
        --num_workers 1 --json "$scenes/first.json"
    GT_ROOT=$scenes/SegmentationClass bash scripts/second_round.sh "$scenes/masks" "$scenes/rounds" 1 "${data[@]}"
done
"$python" - "$out" ${SEEDS:-9801 9802 9803} <<'TABLE'
import json, sys
from pathlib import Path

print("seed   first round   second round   gain")
gains = []
for seed in sys.argv[2:]:
    files = Path(sys.argv[1], seed, "first.json"), Path(sys.argv[1], seed, "rounds", "scores", "round-1.json")
    first, second = (100 * json.loads(file.read_text())["miou"] for file in files)
    gains.append(second - first)
    print(f"{seed:>5} {first:12.1f} {second:14.1f} {gains[-1]:+8.1f}")
print(f"mean gain {sum(gains) / len(gains):+.1f}")
TABLE
