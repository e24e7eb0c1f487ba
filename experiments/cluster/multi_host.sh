#!/usr/bin/env bash
# One run over several hosts: tasks are sharded over the devices of all of them.
#
#   mkdir -p logs && sbatch experiments/cluster/multi_host.sh --config=configs/omniglot.py:way=20,shot=1
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=4 experiments/cluster/multi_host.sh ...
#
# Submit it from the repository's root; the arguments are the program's flags. On GPUs start one process per GPU, with
# all GPUs of the host visible to each (--gpus-per-node, not --gpus-per-task): JAX gives the n-th process of a
# host its n-th GPU. Without GPUs the CPUs of each process are its devices. The number of processes must divide train.tasks_per_step, and the workdir must lie on
# a file system that all hosts share. The same command continues the run, on fewer or more hosts too. Where a host
# was lost, the other processes end within a minute and the job fails, unless SLURM requeues it: submit it again.
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
