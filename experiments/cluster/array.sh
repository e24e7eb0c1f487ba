#!/usr/bin/env bash
# The methods of the paper's Table 1 on Omniglot, 5- and 20-way, as a SLURM array: one method, task and seed per index.
#
#   mkdir -p logs && sbatch experiments/cluster/array.sh
#   sbatch --array=0-2 experiments/cluster/array.sh            # the three seeds of plain MAML, 5-way 1-shot
#   sbatch --export=ALL,RUNS=/scratch/me/runs experiments/cluster/array.sh --config.data.manual_dir=/data
#
# Submit it from the repository's root; further arguments go to the program. Every index is a run of its own
# in a folder of its own, so an index that was stopped, preempted or lost its node continues from its last
# checkpoint when it is submitted again, and one that is finished only prints its results.
#
#SBATCH --job-name=mamlpp
#SBATCH --array=0-83
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=24:00:00
#SBATCH --output=logs/%x-%A_%a.log
#SBATCH --open-mode=append
# A lost or preempted node puts the job back into the queue.
#SBATCH --requeue
# Five minutes before the time is up the program is asked to save and to leave.
#SBATCH --signal=TERM@300
set -euo pipefail

methods=(maml maml+msl maml+da maml+bnrs+bnwb maml+lslr maml+ca maml++)
tasks=(way=5,shot=1 way=5,shot=5 way=20,shot=1 way=20,shot=5)
seeds=(0 1 2)

count=$((${#methods[@]} * ${#tasks[@]} * ${#seeds[@]}))
index="${SLURM_ARRAY_TASK_ID:?is not set; submit this script with sbatch}"
if ! [[ "$index" =~ ^[0-9]+$ ]] || ((10#$index >= count)); then
  echo "error: SLURM_ARRAY_TASK_ID is '$index'; it must be from 0 to $((count - 1))" >&2
  exit 2
fi
index=$((10#$index))
# Neighbouring indices differ in the seed.
seed="${seeds[index % ${#seeds[@]}]}"
row=$((index / ${#seeds[@]}))
method="${methods[row % ${#methods[@]}]}"
task="${tasks[row / ${#methods[@]}]}"

# sbatch runs a copy of this file from its spool folder: paths are relative to where it was submitted.
exec bash experiments/cluster/step.sh --ntasks=1 -- \
  --config="configs/omniglot.py:$task,method=$method,seed=$seed" \
  --workdir="${RUNS:-runs}/omniglot-${task//[=,]/}-$method-seed$seed" \
  "$@"
