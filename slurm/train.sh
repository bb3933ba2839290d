#!/bin/bash
# One training run on the hosts of a Slurm job:
#
#   sbatch --nodes=4 slurm/train.sh --config configs/movi-e.toml --set run.name=mine
#   sbatch --nodes=4 slurm/train.sh --resume runs/mine
#
# The arguments are those of `orchestrator launch`, which submits this very script from a login node. Lines that start with #SBATCH are
# this job's wishes to Slurm unless the command line of sbatch says otherwise. The orchestrator becomes the coordinator on the first host
# and starts the workers by srun.
#
#SBATCH --job-name=lsd
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#
# A lost host costs a restart of the workers, not the job:
#SBATCH --no-kill

orchestrator=${LSD_ORCHESTRATOR:-$SLURM_SUBMIT_DIR/target/release/orchestrator}
[ -x "$orchestrator" ] || orchestrator=$(command -v orchestrator) || {
    echo "error: there is no orchestrator in target/release of $SLURM_SUBMIT_DIR nor in PATH: run make build" >&2
    exit 2
}

# Slurm's signals are for the coordinator, which saves, and ends unless it is USR2; this shell has to outlive it.
trap : TERM INT USR1 USR2

"$orchestrator" launch "$@"
code=$?
# A coordinator that was killed leaves the allocation and the run as they are: the next one goes on.
for _ in 1 2 3; do
    [ "$code" -gt 128 ] || break
    "$orchestrator" launch --again "$@"
    code=$?
done
exit "$code"
