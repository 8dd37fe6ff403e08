"""What can be checked of docker/ without an engine; `make lint` adds hadolint and shellcheck."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["train"]
SERVICE, JOB = yaml.safe_load_all((DOCKER / "kubernetes.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, as (keyword, the rest)."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def arguments(keyword: str) -> list[str]:
    return [rest for key, rest in dockerfile() if key == keyword]


def build_args() -> dict[str, str]:
    return {name: shlex.split(value)[0] for name, value in (a.split("=") for a in arguments("ARG"))}


def in_build_context(path: str) -> bool:
    """Docker's rule: of the lines of .dockerignore that match it or a folder above, the last."""
    places = [path, *map(str, Path(path).parents)][:-1]
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line.startswith("#") and fnmatch.filter(places, line.removeprefix("!")):
            included = line.startswith("!")
    return included


def test_all_that_is_copied_exists_and_is_in_the_build_context():
    sources = [s for rest in arguments("COPY") for s in rest.split()[:-1]]
    assert sources[-1] == "."
    for source in sources[:-1]:
        assert (ROOT / source).exists() and in_build_context(source), source
    for path in ["train_net.py", "configs/LVISv1", "igam_d2/engine/trainer.py", "tools/report.py"]:
        assert (ROOT / path).exists() and in_build_context(path), path
    for path in [".git/HEAD", ".venv/bin/python", "output/model.pth", "datasets/lvis", "tests"]:
        assert not in_build_context(path), path
    assert not in_build_context("igam_d2/engine/__pycache__/trainer.pyc")


def test_mounts_and_stages_refer_to_stages():
    stages = re.findall(r"AS (\w+)", "\n".join(arguments("FROM")))
    used = re.findall(r"[ ,-]from=(\w+)", "\n".join(arguments("RUN") + arguments("COPY")))
    assert used and set(used) <= set(stages)


def test_base_images_and_detectron2_are_pinned_to_what_torch_is_built_for():
    cuda, commit = build_args()["CUDA"], build_args()["DETECTRON2_COMMIT"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", cuda) and cuda.startswith(torch.version.cuda + ".")
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    stages = []
    for rest in arguments("FROM"):
        image, _, name = rest.partition(" AS ")
        assert image in stages or re.fullmatch(
            r"nvidia/cuda:\$\{CUDA\}-(base|devel)-ubuntu24\.04", image
        )
        stages.append(name)
    # sm_100 is 10.0; PTX of the last is for GPUs that are yet to come
    gpus = [re.sub(r"sm_(\d+)(\d)", r"\1.\2", arch) for arch in torch.cuda.get_arch_list()]
    assert build_args()["TORCH_CUDA_ARCH_LIST"] == ";".join(gpus) + "+PTX"


def test_image_installs_what_make_setup_does_save_for_detectron2():
    make = ["make", "--always-make", "--dry-run", "setup", "VENV=/opt/venv", "DETECTRON2=a.whl"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    setup = subprocess.run(make, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    step = r"^(?:.* )?sh requirements/install.sh /opt/venv (\w+)(?: (\S+))?$"
    in_setup = re.findall(step, setup.stdout, flags=re.MULTILINE)
    in_image = re.findall(step, "\n".join(arguments("RUN")), flags=re.MULTILINE)
    assert [name for name, _ in in_image] == [name for name, _ in in_setup]
    assert [name for name, _ in in_image] == ["torch", "project", "detectron2"]
    extras = dict(in_setup)["project"].split(",")
    # An image takes a set that was rendered elsewhere
    assert set(dict(in_image)["project"].split(",")) == set(extras) - {"dev", "bench"}
    assert "'a.whl'" in dict(in_setup)["detectron2"]
    assert dict(in_image)["detectron2"] == "/wheels/*.whl"
    # and nothing past it
    (wheel,) = [rest for rest in arguments("RUN") if "pip" in rest.replace(".cache/pip", "")]
    assert "pip wheel" in wheel and wheel.endswith('detectron2.git@${DETECTRON2_COMMIT}"')
    assert "FORCE_CUDA=1" in wheel


def test_image_starts_train_net_as_a_user_without_rights():
    assert int(arguments("USER")[-1].split(":")[0]) > 0
    workdir = arguments("WORKDIR")[-1]
    entry_point = json.loads(arguments("ENTRYPOINT")[-1])  # a list, so that no shell keeps SIGTERM
    assert entry_point == ["tini", "--", "/opt/venv/bin/python", f"{workdir}/train_net.py"]
    assert json.loads(arguments("VOLUME")[-1]) == ["/datasets", "/output"]
    assert "DETECTRON2_DATASETS=/datasets" in arguments("ENV")[-1].split()


@pytest.mark.parametrize(
    "command",
    [
        ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker/compose.yaml"],
        ["kubernetes_validate", "--strict", "-k", "1.33", "docker/kubernetes.yaml"],
    ],
    ids=["compose", "kubernetes"],
)
def test_yaml_follows_its_schema(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True)
    assert result.returncode == 0, result.stdout.decode() + result.stderr.decode()
    assert b"WARN" not in result.stdout  # a kind or version that it has no schema of


def test_machines_gpus_and_names_of_the_kubernetes_job_agree():
    args = dict(zip(CONTAINER["args"], CONTAINER["args"][1:], strict=False))
    assert int(args["--num-machines"]) == JOB["spec"]["completions"] == JOB["spec"]["parallelism"]
    assert int(args["--num-gpus"]) == CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    assert args["--machine-rank"] == f"$({CONTAINER['env'][0]['name']})"
    job, service = JOB["metadata"]["name"], SERVICE["metadata"]["name"]
    assert POD["subdomain"] == service and SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"] == {"batch.kubernetes.io/job-name": job}
    assert args["--dist-url"].startswith(f"tcp://{job}-0.{service}:")
    rules = JOB["spec"]["podFailurePolicy"]["rules"]
    assert all(r["onExitCodes"]["containerName"] == CONTAINER["name"] for r in rules[:2])
    assert [r["action"] for r in rules if 143 in r.get("onExitCodes", {}).get("values", [])] == [
        "Ignore"
    ]


def test_shared_memory_and_time_for_a_checkpoint_are_given():
    assert COMPOSE["shm_size"] == "32gb" and COMPOSE["stop_grace_period"] == "3m"
    assert POD["terminationGracePeriodSeconds"] == 300
    (shm,) = [m["name"] for m in CONTAINER["volumeMounts"] if m["mountPath"] == "/dev/shm"]
    (volume,) = [v for v in POD["volumes"] if v["name"] == shm]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}


@pytest.fixture
def sbatch(tmp_path):
    """Runs slurm.sh with stand-ins: (its exit status, what Apptainer got, what was requeued)."""
    stand_ins = {
        "scontrol": '[ $1 = show ] && printf "one\\ntwo\\n" || echo "$@" > requeued',
        "df": "echo Avail; echo $SHM_KIB",
        "srun": "[ -z $SCANCEL ] || kill -TERM $PPID; while [[ $1 == --* ]]; do shift; done\n"
        'SLURM_NODEID=1 SLURM_GPUS_ON_NODE=8 "$@"',
        "apptainer": 'printf "%s\\n" "$@" > started; exit $STATUS',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def read(name):
        lines = (tmp_path / name).read_text().splitlines() if (tmp_path / name).exists() else []
        (tmp_path / name).unlink(missing_ok=True)
        return lines

    def run(status=0, scancel="", shm_kib=1 << 26, **env):
        env = {"IMAGE": "a.sif", "DETECTRON2_DATASETS": "/data", "OUTPUT": "/scratch"} | env
        env |= {"SLURM_JOB_ID": 7, "SLURM_JOB_NODELIST": "x", "SLURM_NNODES": 2}
        env |= {"SLURM_CPUS_PER_TASK": 6, "STATUS": status, "SCANCEL": scancel, "SHM_KIB": shm_kib}
        env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        env = {key: str(value) for key, value in env.items()}
        command = ["bash", DOCKER / "slurm.sh", "--config-file", "a.yaml", "OUTPUT_DIR", "/output"]
        result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True)
        return result.returncode, read("started"), read("requeued")

    return run


def test_slurm_script_requeues_a_job_that_was_stopped_and_no_other(sbatch):
    assert sbatch(143)[::2] == (143, ["requeue 7"])
    assert sbatch(143, scancel="yes")[::2] == (143, [])
    assert sbatch(0)[::2] == (0, [])
    assert sbatch(1)[::2] == (1, [])


def test_slurm_script_starts_nothing_with_too_little_shared_memory(sbatch):
    assert sbatch(shm_kib=1 << 20) == (1, [], [])
    code, started, _ = sbatch(shm_kib=1 << 20, SHM_GIB=1)
    assert code == 0 and started


def test_slurm_script_needs_to_be_told_where_things_are(sbatch):
    assert sbatch(OUTPUT="")[1] == []


@pytest.fixture(scope="module")
def options():
    command = [sys.executable, "-W", "ignore", "train_net.py", "--help"]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"--[a-z-]+", text))


def test_commands_are_ones_that_train_net_understands(sbatch, options):
    _, started, _ = sbatch()
    place = started.index("/opt/igam_d2/train_net.py")
    assert started[:2] == ["exec", "--nv"] and started[place - 2] == "a.sif"
    assert "/data:/datasets:ro,/scratch:/output" in started
    assert "tcp://one:20007" in started
    interpolated = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE["command"])
    for args in (shlex.split(interpolated), CONTAINER["args"], started[place + 1 :]):
        used = {arg for arg in args if arg.startswith("--")}
        assert used <= options and "--resume" in used, used - options
        assert args[args.index("OUTPUT_DIR") + 1].startswith("/output")
        for i, arg in enumerate(args):  # no value is taken for an option, or the other way round
            if arg in ("--num-gpus", "--num-machines", "--dist-timeout"):
                assert int(args[i + 1]) > 0
    assert started[started.index("--machine-rank") + 1] == "1"


def test_configs_and_files_that_are_named_exist():
    for path in DOCKER.iterdir():
        named = re.findall(r"(?:configs|tools|requirements)/[\w./-]*\w", path.read_text())
        assert named, path
        for name in named:
            assert (ROOT / name).exists(), f"{path.name}: {name}"
