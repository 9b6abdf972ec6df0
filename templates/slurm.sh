#!/bin/bash
# A plan on a cluster with Slurm, as an array of jobs that share a folder:
#   sbatch slurm.sh PLAN OUT
# OUT, the plan and the plugin files that it names lie where all nodes see them. A job that is lost or ends at its time
# limit takes nothing with it: the same line again computes what is missing.
#SBATCH --job-name=redteam
#SBATCH --array=1-8
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=redteam-%A-%a.log
set -euo pipefail

plan=${1:?which plan? sbatch slurm.sh PLAN OUT}
out=${2:?which folder for the results? sbatch slurm.sh PLAN OUT}

# What scenarios train is kept once for all nodes.
export REDTEAM_CACHE=${REDTEAM_CACHE:-$out/cache}

exec redteam run "$plan" --out "$out" --quiet \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX" \
    --workers "${SLURM_CPUS_PER_TASK:-1}"
