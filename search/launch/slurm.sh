#!/usr/bin/env bash
# A search on the nodes of a Slurm job:  sbatch [--nodes 4 ...] slurm.sh SPACE --out DIR [other words of `lpanas search`]
# SPACE, DIR and the data are on a filesystem that every node sees; `ray` and `lpanas` are on PATH (activate a venv below).
#SBATCH --job-name=lpanas
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
set -euo pipefail
# source /shared/lpanas/.venv/bin/activate

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300  # seconds for all nodes to come
# Ray on every node, the search on the first; Ray ends with it. A job that ends early goes on when it is submitted again.
srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    env RAY_ADDRESS="$head:6379" lpanas search "$@" --executor ray
