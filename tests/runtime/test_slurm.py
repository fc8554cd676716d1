"""A real SLURM of one node: what it starts, signals, requeues and cancels ends as docs/clusters.md says.

As root, where SLURM is installed and the script that starts one lies beside the checkout; elsewhere these skip.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import identical, lines, weights

from mec.runtime.checkpoints import checkpoints

ROOT = Path(__file__).parents[2]
START = ROOT.parent / "shared/cluster/start-slurm.sh"
SCRIPT = ROOT / "examples/cluster/slurm.sh"
NEEDED = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "salloc", "scontrol", "scancel")
TRAIN = "pretrain digits --recipe digits --backbone resnet10-tiny --limit 240 --batch-size 24 --no-evaluate --no-report"
LIBRARIES = ("Warning", "lightning", "Initializing distributed", "broadcast_buffers", "`srun` command is available")

pytestmark = pytest.mark.slurm


class Cluster:
    """Commands of SLURM in a folder, where `mec` is this checkout's."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin/mec").write_text(f'#!/bin/sh\nexec {sys.executable} -m mec "$@"\n')
        (folder / "bin/mec").chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "400",
        }  # fmt: skip

    def run(self, words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words.split(), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout
        )

    def trained(self, launch: str, out: str, epochs: int = 2) -> str:
        """A run to its end; what was printed."""
        done = self.run(f"{launch} mec {TRAIN} --epochs {epochs} --out {out} --resume")
        told = done.stdout + done.stderr
        assert done.returncode == 0, told
        assert not [word for word in LIBRARIES if word in told], told
        return told

    def submitted(self, words: str) -> str:
        """The number of a job of the example's script."""
        done = self.run(f"sbatch {words}")
        return re.findall(r"\d+", done.stdout)[-1]

    def until(self, what: Callable[[], object], job: str, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.log(job) + self.run(f"scontrol show job {job}").stdout
            assert self.state(job) != "FAILED", self.log(job) + (self.folder / "slurmctld.log").read_text()
            time.sleep(0.3)

    def state(self, job: str) -> str:
        found = re.search(r"JobState=(\w+)", self.run(f"scontrol show job {job}").stdout)
        return found[1] if found else "gone"

    def log(self, job: str) -> str:
        return (self.folder / f"mec-{job}.log").read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    absent = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if absent or os.geteuid() != 0 or not START.exists():
        pytest.skip(f"no SLURM to start here: {', '.join(absent) or 'not root, or no script beside the checkout'}")
    found = Cluster(tmp_path_factory.mktemp("slurm"))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}  # nproc heeds them
    subprocess.run(["bash", START, found.folder], check=True, capture_output=True, timeout=90, env=plain)
    yield found
    for name in ("slurmd", "slurmctld"):
        os.kill(int((found.folder / f"run/{name}.pid").read_text()), 15)
    subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "munged --stop"], check=False, capture_output=True)


def test_two_tasks_are_two_ranks_in_both_spellings(cluster):
    for out, spelling in {"a": "--ntasks 2", "b": "--ntasks-per-node 2"}.items():
        assert "on cpu x 2" in cluster.trained(f"srun {spelling}", out)
    assert identical(weights(cluster.folder / "a"), weights(cluster.folder / "b"))


def test_without_srun_a_job_of_two_tasks_is_one_process_that_says_so(cluster):
    said = cluster.trained("salloc --ntasks 2", "alone")
    assert "this job has 2 tasks, this is one process: `srun mec ...` starts all" in said
    assert said.count("Training was") == 1
    (cluster.folder / "job.sh").write_text(f"#!/bin/sh\nmec {TRAIN} --epochs 2 --out batch\n")
    job = cluster.submitted("--ntasks 2 --wait --output mec-%j.log job.sh")
    assert "this job has 2 tasks" in cluster.log(job)
    assert cluster.log(job).count("Training was") == 1
    assert identical(weights(cluster.folder / "alone"), weights(cluster.folder / "batch"))


def test_a_run_that_is_signalled_requeued_and_cancelled_ends_as_one_left_alone(cluster):
    """USR1 as before a time limit, `scontrol requeue`, `scancel`: each saves its step, the next start goes on."""
    out, epochs = cluster.folder / "disturbed", 20
    words = f"{SCRIPT} {TRAIN.removeprefix('pretrain ')} --epochs {epochs} --out {out}"
    job = cluster.submitted(words)

    def resumed(times: int) -> bool:
        there = (cluster.folder / f"mec-{job}.log").exists()
        return there and cluster.log(job).count("resumed after step") == times

    cluster.until(lambda: (out / "metrics.jsonl").exists() and lines(out / "metrics.jsonl"), job)
    for times, signal in enumerate((f"scancel --batch --signal USR1 {job}", f"scontrol requeue {job}"), 1):
        before = checkpoints(out)
        cluster.run(signal)
        cluster.until(lambda: cluster.state(job) == "PENDING", job)
        assert checkpoints(out) != before
        # Not two minutes later; but a start in the second of the end is refused ("Job credential revoked").
        cluster.run(f"scontrol update JobId={job} StartTime=now+5")
        cluster.until(lambda times=times: resumed(times), job)
    before = checkpoints(out)
    cluster.run(f"scancel {job}")
    cluster.until(lambda: cluster.state(job) == "CANCELLED", job)
    assert checkpoints(out) != before
    assert cluster.log(job).count("stopped by a signal after step") == 2 * 3  # each rank says so
    cluster.trained("srun --ntasks 2", str(out), epochs)
    cluster.trained("srun --ntasks 2", "whole", epochs)
    assert identical(weights(out), weights(cluster.folder / "whole"))
