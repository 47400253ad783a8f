#!/usr/bin/env bash
# The methods on the toy world, each alone and with a network trained on its masks, on images that none has seen.
#   bash scripts/compare_toyworld.sh
# Writes output/compare/scores.json and a table. Repeat it and it goes on where it stopped.
set -euo pipefail
if [ $# -gt 0 ]; then # it takes no arguments: --help, or a mistake
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
. scripts/setup.sh
set_up requirements.txt

python=.venv/bin/python
out=output/compare
iterations=${ITERATIONS:-2000} # of each network
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 # two at a time, one thread each, is quicker than one of two
started=$SECONDS

train=$out/train held_out=$out/held_out
seeds=($("$python" -c 'from toyworld.spec import *; print(*COMPARE_TRAINING, *COMPARE_HELD_OUT)'))
make_scenes() { # FOLDER SEED COUNT
    [ -e "$1/captions.jsonl" ] || "$python" -m scripts.make_toyworld --out "$1" --seed "$2" --count "$3"
}
make_scenes $train "${seeds[0]}" "${seeds[1]}"
make_scenes $held_out "${seeds[2]}" "${seeds[3]}"

trap 'trap "" TERM; kill 0; exit 130' INT TERM # what runs in the background does not see Ctrl-C

side_by_side() { # TITLE, then two functions below: what they say goes to $out/FUNCTION.txt
    local task pids=()
    printf '%5s s  %s\n' $((SECONDS - started)) "$1"
    for task in "$2" "$3"; do
        $task >>"$out/$task.txt" 2>&1 &
        pids+=($!)
    done
    wait "${pids[0]}" || failed "$2"
    wait "${pids[1]}" || failed "$3"
}
failed() {
    tail -n 5 "$out/$1.txt" >&2
    kill $(jobs -p) 2>/dev/null || true
    exit 3
}
make_masks() { # SCENES NAME SCORE [options of generate_cams.py]: maps and masks in SCENES, their scores by NAME SCORE
    local place=$1/$2 score=$out/scores/$3 data=(--dataset toyworld --img_root "$1/JPEGImages")
    shift 3
    "$python" generate_cams.py "${data[@]}" --cam_out_dir "$place-cams" "$@"
    "$python" eval_cam.py "${data[@]}" --cam_out_dir "$place-cams" --json "$score-maps.json"
    "$python" eval_cam_with_crf.py "${data[@]}" --cam_out_dir "$place-cams" --pseudo_mask_save_path "$place" \
        --num_workers 1 --json "$score.json"
}
network() { # NAME [options of train_segmentor]: a network, its masks of the held-out images, and their scores
    local name=$1 way data=(--dataset toyworld --img_root $held_out/JPEGImages)
    shift
    "$python" -m scripts.train_segmentor --dataset toyworld --img_root $train/JPEGImages --out "$out/$name" \
        --arch segformer-tiny --max_iters "$iterations" --crop 96 --scales 0.75 1.5 --no_colours \
        --lr 2e-3 --head_lr 1 --weight_decay 0.01 --warmup 100 --ema 0.99 "$@"
    for way in -maps ""; do # without and with the CRF
        "$python" -m scripts.predict_segmentor "${data[@]}" --weights "$out/$name/weights.safetensors" \
            --out "$held_out/$name$way" --flip --scales 1 1.5 --num_workers 1 $([ -n "$way" ] || echo --crf)
        "$python" eval_cam.py "${data[@]}" --cam_type png --cam_out_dir "$held_out/$name$way" \
            --json "$out/scores/$name$way.json"
    done
}

clip_es_train() { make_masks $train clip-es clip-es-train; }
maskclip_train() { make_masks $train maskclip maskclip-train --method maskclip; }
with_labels() {
    make_masks $held_out clip-es clip-es
    make_masks $held_out maskclip maskclip --method maskclip
}
without_labels() {
    "$python" -m scripts.tag_images --dataset toyworld --img_root $held_out/JPEGImages --out $held_out/tags.txt
    make_masks $held_out clip-es-unlabelled clip-es-unlabelled --labels $held_out/tags.txt
    make_masks $held_out maskclip-unlabelled maskclip-unlabelled --method maskclip --labels all
}
clip_es_network() { network clip-es-network --masks $train/clip-es; }
maskclip_network() { network maskclip-network --masks $train/maskclip; }
maskclip_plus() { # CLIP wants surroundings, so larger crops; the teacher's settings were chosen on seed 778
    network maskclip-plus --teacher maskclip --teacher_refined --teacher_pamr 5 --crop 192 --scales 0.75 1.25
    "$python" -m scripts.predict_segmentor --dataset toyworld --img_root $train/JPEGImages \
        --weights $out/maskclip-plus/weights.safetensors --out $train/maskclip-plus --flip --scales 1 1.5 --num_workers 1 \
        --crf # for zsseg
}
segclip() { # learns from captions alone; its settings were chosen on seed 778
    "$python" -m scripts.superpixels $train/JPEGImages --side 192 --num_workers 1
    "$python" -m scripts.pretrain_segclip --data $train/JPEGImages --captions $train/captions.jsonl --out $out/segclip \
        --init toyworld/clip.pt --clip_lr 0 --no_masked_image --groups 48 --max_words 16 --batch_size 32 \
        --max_iters "${SEGCLIP_ITERATIONS:-1000}" --save_every 50
    make_masks $held_out segclip-pretrained segclip-pretrained --method segclip --labels all \
        --model $out/segclip/segclip.safetensors --templates dataset --flip --scales 1 1.5
}
regions=(--method zsseg --labels all --fz_scale 400 --fz_sigma 2 --fz_min_size 400 # large regions, in squares
    --region_side 96 --region_expand 1.5) # as small as what this CLIP knows; chosen on seed 778
zsseg_regions() { make_masks $held_out zsseg-regions zsseg-regions "${regions[@]}"; }
single_prompt() { make_masks $held_out zsseg-single zsseg-single "${regions[@]}" --templates single; }
zsseg_trained() { # NAME ITERATIONS ENSEMBLE SCALE [options]: its network and its masks; settings chosen on seed 7781
    local name=$1 iterations=$2 ensemble=$3 scale=$4
    shift 4
    "$python" -m scripts.train_zsseg --dataset toyworld --img_root $train/JPEGImages --out "$out/$name" \
        --max_iters "$iterations" --batch_size 8 --crop 96 --short_side 160 --sides 96 112 128 --long_side 2048 \
        --lr 5e-4 --backbone_lr 2 --warmup 50 --clip_norm 1 --ema 0.99 --save_every 500 --network tiny \
        --hidden ignored "$@"
    make_masks $held_out "$name" "$name" --method zsseg --labels all --proposals maskformer \
        --maskformer "$out/$name/weights.safetensors" --ensemble "$ensemble" --logit_scale "$scale" \
        --region_threshold 0.3 --region_side 120 --flip --scales 1 0.8
}
zsseg_network() { # sees masks of six classes and the background; pixels of the other two count for nothing
    zsseg_trained zsseg-network "${ZSSEG_ITERATIONS:-3500}" 0.95 100 --masks $train/SegmentationClass
}
zsseg_self_trained() { # the same masks of six classes, but MaskCLIP+'s of all else: nothing says where the two are
    "$python" -m scripts.pseudo_labels --dataset toyworld --img_root $train/JPEGImages \
        --masks $train/maskclip-plus --seen_masks $train/SegmentationClass --out $train/pseudo --num_workers 1
    zsseg_trained zsseg-self-trained "${ZSSEG_ITERATIONS:-4000}" 0.7 0 --masks $train/pseudo --learn all \
        --logit_scale 0 --class_weight 4 # this CLIP's own factor of the cosines; random weights learn names slowly
}
learned_prompts() { # of the seen classes, from the toy world's sentence on; settings were chosen on seed 778
    "$python" -m scripts.learn_prompts --dataset toyworld --img_root $train/JPEGImages --masks $train/SegmentationClass \
        --out $out/prompts --first_words "a clean origami" --logit_scale 0 --crop 96 96 --max_iters 100 --warmup 5
    make_masks $held_out zsseg-learned zsseg-learned "${regions[@]}" --prompts $out/prompts/prompts.safetensors
    make_masks $held_out maskclip-learned maskclip-learned --method maskclip --labels all \
        --prompts $out/prompts/prompts.safetensors
}
network_regions_and_prompts() {
    zsseg_network
    zsseg_regions
    single_prompt
    learned_prompts
}
truth_network() { network truth-network --masks $train/SegmentationClass; }
without_masks_and_with() {
    segclip
    truth_network
}

mkdir -p $out/scores
side_by_side "masks of ${seeds[1]} training images, whose labels are known" clip_es_train maskclip_train
side_by_side "the same methods on ${seeds[3]} other images, with their labels and without" with_labels without_labels
side_by_side "networks on CLIP-ES' and on MaskCLIP's masks, $iterations iterations" clip_es_network maskclip_network
side_by_side "a network that MaskCLIP teaches (MaskCLIP+); SegCLIP, which learns from captions, and one on the true masks" \
    maskclip_plus without_masks_and_with
side_by_side "zsseg: its network on masks of the seen classes, regions without training, learned prompts; self-training" \
    network_regions_and_prompts zsseg_self_trained
"$python" -m scripts.collect_scores $out/scores --methods --out $out/scores.json
echo "took $((SECONDS - started)) s; what the commands said is in $out/*.txt"
