#!/usr/bin/env bash
# The red team's held-out table, in parts side by side (twelve processes of one thread), since not all recipes speak of all
# scenes or cost alike. Each part goes on where it was stopped: FOLDER/PART/measured.jsonl; FOLDER/redteam.md is of all.
#   benchmarks/redteam.sh FOLDER
# The scenes: python -m data.write --split heldout --g_m_s2 9.81 --clips 653 --light
set -u
folder=$1
cd "$(dirname "$0")/.." && mkdir -p "$folder"

part() { # PART PROCESSES KIND=NUMBER... RECIPE... [flags]
  local name=$1 processes=$2 kinds=$3 recipes=$4
  # shellcheck disable=SC2046,SC2086
  OMP_NUM_THREADS=1 ${PYTHON:-python} -m trainers.redteam --dataset data/rendered --split heldout-g9.81 \
    --of_kind $kinds --recipe $(printf 'configs/recipes/%s.yaml ' $recipes) --processes "$processes" \
    --output_dir "$folder/$name" "${@:5}" >"$folder/$name.log" 2>&1 &
}

part collisions 3 "collide=32" "collision momentum non_penetration"
part falls 3 "drop=6 throw=3 bounce=6" "arc_residual depth_match energy_drift energy_rise energy_variance galileo gravity_guarded gravity_positions gravity_rigid projectile rigidity segmentation_match"
part bounces 1 "drop=1 bounce=20" "restitution"
part staged 1 "slope=6 pendulum=6" "incline pendulum"
part fields 1 "swirl=12" "divergence_free pde_residual"
part flow 1 "drop=3 throw=1 bounce=1" "gravity flow_match"
part noise 2 "drop=1" "gravity_positions gravity_rigid gravity_guarded" --attack none --noise_clips 5 --noise_steps 24
wait
${PYTHON:-python} -m trainers.redteam_table "$folder" >"$folder/redteam.md"
