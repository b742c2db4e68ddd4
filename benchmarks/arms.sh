#!/usr/bin/env bash
# What should learn, compared: short trainings that differ in one setting each, on the same held-out scenes and noise.
#   benchmarks/arms.sh                    about twenty minutes on one core; goes on where it was stopped
#   STEPS=1 SCENES=2 benchmarks/arms.sh   a short look
set -euo pipefail
STEPS="${STEPS:-40}" SCENES="${SCENES:-64}" OUT="${OUT:-outputs/arms}"

arms=(base)
arm() { # arm NAME FLAGS...: train it, unless it is there
  local folder="$OUT/$1"
  arms+=("$1=$folder")
  shift
  [ -e "$folder/pytorch_lora_weights.safetensors" ] || python trainers/oro.py --config configs/oro_demo.yaml \
    --max_steps "$STEPS" --output_dir "$folder" --resume_from_checkpoint auto "$@"
}

free="--reference_weight 0 --denoising_weight 0"
arm regularised
arm control --reward_weight 0
arm last_1 --grad_steps last $free
arm full $free
arm early --adapter_sigma_range 0.86 1 $free
python -m trainers.evaluation --arm "${arms[@]}" --recipe configs/recipes/gravity_positions.yaml --at_rest --scenes "$SCENES" \
  --output_dir "$OUT/evaluation"
