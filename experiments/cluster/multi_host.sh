#!/usr/bin/env bash
# One run over several hosts: tasks are sharded over the devices of all of them.
#
#   mkdir -p logs && sbatch experiments/cluster/multi_host.sh --config=configs/omniglot.py:way=20,shot=1
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=8 experiments/cluster/multi_host.sh ...
#
# Submit it from the repository's root; the arguments are the program's flags. Without GPUs the CPUs of each
# process are its devices. With GPUs there is one process for each: --gpus-per-node is --ntasks-per-node. JAX takes
# the GPU with the process's number on its node, so every process must see all of them: with --gpus-per-task=1 it
# would see one, number 0, and all processes of a node but the first would look for one that they do not have.
#
# The number of processes must divide train.tasks_per_step, and the workdir must lie on a file system that all
# hosts share. The same command continues the run, on fewer or more hosts too. Where a host was lost, the other
# processes end within a minute and the job fails, unless SLURM requeues it: submit it again.
#
#SBATCH --job-name=mamlpp-hosts
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
set -euo pipefail

if (($# == 0)); then
  echo "error: give the program's flags, for example --config=configs/omniglot.py:way=20,shot=1" >&2
  exit 2
fi
# --label says which process wrote a line; --cpu-bind gives each process its own cores.
exec bash experiments/cluster/step.sh --label --cpu-bind=cores -- --distributed "$@"
