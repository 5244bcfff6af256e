#!/usr/bin/env bash
# A full training on the nodes of a Slurm job:  sbatch [--nodes 4 ...] slurm.sh CONFIG [other words of `lpanas train`]
# CONFIG, its data and the folder of results are on a filesystem that every node sees; `torchrun` and `lpanas` are on PATH
# (activate a virtual environment below). A job that has ended early goes on when it is submitted again with the same words.
#SBATCH --job-name=lpanas-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
set -euo pipefail
: "${1:?expected a train.yaml: sbatch slurm.sh train.yaml}"
# source /shared/lpanas/.venv/bin/activate

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110  # seconds for a last checkpoint, of the 120 above; torchrun's own are 30

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
# One torchrun a node, one process a GPU; the first node is where they meet. When a process dies, all are started again, three
# times; a torchrun that ends with an error ends the others.
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-gpu}" \
    --max-restarts 3 --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29400" \
    --no-python lpanas train "$@"
