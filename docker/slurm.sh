#!/bin/bash
# Several machines under Slurm, with the image in Apptainer. What follows the script's name is passed to train_net.py:
#   export IMAGE=igam_d2.sif DETECTRON2_DATASETS=/path/to/datasets OUTPUT=/path/to/output
#   sbatch --nodes 4 docker/slurm.sh --config-file configs/LVISv1/faster_rcnn_R_50_FPN_igam.yaml OUTPUT_DIR /output/lvis
#SBATCH --job-name=igam_d2
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=48
#SBATCH --mem=192G
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# SIGTERM to train_net.py on all machines, 5 minutes before the time is up; a preempted job gets it from Slurm unasked,
# GraceTime before the end. The checkpoint is written then, and this script puts the job back into the queue.
#SBATCH --signal=TERM@300
#SBATCH --requeue
# shellcheck disable=SC2016,SC2329  # `machine` is called in quotes, on each machine
set -euo pipefail
: "${IMAGE:?the Apptainer image}" "${DETECTRON2_DATASETS:?the folder with the data sets}"
: "${OUTPUT:?the folder for checkpoints and results, the same on all machines}"

machine() { # what each machine runs; Detectron2 starts a process for each GPU
    # The loader's workers hand their batches over in /dev/shm, and Apptainer gives the container the machine's own.
    local free
    free=$(($(df --output=avail /dev/shm | tail -n 1) >> 20))
    if ((free < ${SHM_GIB:-16})); then
        echo "$(hostname): $free GiB are free in /dev/shm, and ${SHM_GIB:-16} are wanted (SHM_GIB)" >&2
        exit 1
    fi
    # --env, or the path outside would be used inside too; exec, so that SIGTERM reaches Apptainer, which passes it on
    exec apptainer exec --nv --pwd /opt/igam_d2 --env DETECTRON2_DATASETS=/datasets \
        --bind "$DETECTRON2_DATASETS:/datasets:ro,$OUTPUT:/output" "$IMAGE" \
        /opt/venv/bin/python /opt/igam_d2/train_net.py \
        --num-gpus "$SLURM_GPUS_ON_NODE" --machine-rank "$SLURM_NODEID" "$@"
}
export -f machine

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000)) # of the job, as jobs may share a machine
requeue=yes
# scancel sends SIGTERM to this script as well. It must not be sent on to srun, which would kill train_net.py at once.
trap 'requeue=no' TERM

status=0
# srun does not take --cpus-per-task over from sbatch. When one machine has ended, the others get 3 minutes to end too:
# time to finish the checkpoint, and not hours in a collective that nobody else joins.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=180 bash -c 'machine "$@"' machine \
    --resume --num-machines "$SLURM_NNODES" --dist-url "tcp://${hosts%%$'\n'*}:$port" --dist-timeout 20 "$@" || status=$?

if [ "$status" = 143 ] && [ "$requeue" = yes ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
