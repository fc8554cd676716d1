"""Cores and memory are those that this process may use; judged by files as Linux lays them out."""

from __future__ import annotations

import os

import pytest

from mec.runtime import machine


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A tree of cgroups of version 2 in which this process is jobs/7/step; gives its folder."""
    (tmp_path / "own").write_text("3:memory:/elsewhere\n0::/jobs/7/step\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "tree")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    (tmp_path / "tree" / "jobs" / "7" / "step").mkdir(parents=True)
    return tmp_path / "tree" / "jobs"


def test_without_a_limit_affinity_decides_over_cores_and_the_machine_over_memory(groups):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (machine.cores(), machine.memory_bytes()) == (6, physical)
    (groups / "7" / "cpu.max").write_text("max 100000\n")
    (groups / "7" / "memory.max").write_text("max\n")
    assert (machine.cores(), machine.memory_bytes()) == (6, physical)


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1)])
def test_the_tightest_limit_of_the_groups_above_counts(groups, quota, cores):
    (groups / "cpu.max").write_text("400000 100000\n")
    (groups / "7" / "step" / "cpu.max").write_text(f"{quota}\n")
    (groups / "memory.max").write_text(f"{3 << 30}\n")
    (groups / "7" / "memory.max").write_text(f"{1 << 29}\n")
    assert machine.cores() == cores
    assert machine.this_machine("cpu").memory_gib == 0.5


def test_a_system_without_groups_or_affinity_has_what_the_machine_has(groups, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    (tmp_path / "own").unlink()
    assert machine.cores() == os.cpu_count()


def test_a_loader_has_no_more_workers_than_cores(monkeypatch):
    import torch

    from mec.data.batches import ViewBatches
    from mec.data.dataset import Split
    from mec.data.images import Files
    from mec.recipes.recipe import View

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    split = Split(Files(("a.png", "b.png")))
    batches = ViewBatches(split, (View(size=8),), 2, seed=0, device=torch.device("cpu"), workers=None)
    assert batches.workers == 1
