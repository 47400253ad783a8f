#!/usr/bin/env bash
# Better masks from the same weights and labels: a network learns from the masks, looks at the same images again, keeps
# the classes that their labels name, and the CRF sharpens what it saw. Repeat it and it goes on where it stopped.
#   bash scripts/second_round.sh MASKS OUT [ROUNDS] [options of the data: --dataset, --img_root, --split_file, --classes, --labels]
# MASKS   what eval_cam_with_crf.py wrote for these images
# OUT     gets round-1/, round-2/, ...: segmentor/ (the network) and masks/
# ROUNDS  1 when not given
# In the environment, if you like:
#   GT_ROOT=DIR          ground-truth masks: every round is scored
#   TRAIN="..."          options of scripts.train_segmentor (what to train, how long); its defaults when not given
#   LOOK="..."           options of scripts.predict_segmentor; --flip --scales 0.75 1 1.25 when not given
#   CONFIDENCE=0.95      below this probability a pixel of the new masks is 255
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
fail() {
    echo "error: $1" >&2
    exit 2
}
[ -d "$1" ] || fail "MASKS $1: no such folder; give the masks that eval_cam_with_crf.py wrote"
masks=$(realpath "$1")
out=$(realpath -m "$2")
shift 2
rounds=1
case ${1:---} in
    --*) ;;
    *[!0-9]* | 0) fail "ROUNDS $1: expected a number from 1 on" ;;
    *) rounds=$1 && shift ;;
esac
data=() labels=own
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1: expected a value after it"
    case $1 in
        --labels) labels=$2 ;;
        --img_root | --split_file | --classes) data+=("$1" "$(realpath -m "$2")") ;;
        --dataset) data+=("$1" "$2") ;;
        *) fail "$1: expected --dataset, --img_root, --split_file, --classes or --labels" ;;
    esac
    shift 2
done
[ ! -e "$labels" ] || labels=$(realpath "$labels")
truth=${GT_ROOT:+$(realpath -m "$GT_ROOT")}
read -ra train <<<"${TRAIN:-}"
read -ra look <<<"${LOOK:---flip --scales 0.75 1 1.25}"
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements.txt

score() { # MASKS NAME
    [ -z "$truth" ] || .venv/bin/python eval_cam.py "${data[@]}" --cam_type png --cam_out_dir "$1" --gt_root "$truth" \
        --json "$out/scores/$2.json"
}
mkdir -p "$out/scores"
score "$masks" round-0
for ((round = 1; round <= rounds; round++)); do
    here=$out/round-$round
    .venv/bin/python -m scripts.train_segmentor "${data[@]}" --masks "$masks" --out "$here/segmentor" "${train[@]}"
    .venv/bin/python -m scripts.predict_segmentor "${data[@]}" --labels "$labels" --out "$here/masks" \
        --weights "$here/segmentor/weights.safetensors" --crf --confidence "${CONFIDENCE:-0.95}" "${look[@]}"
    masks=$here/masks
    score "$masks" "round-$round"
done
echo "masks of round $rounds: $masks"
