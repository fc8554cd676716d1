"""Judge: the system's count of page faults, in processes of their own: the setting stays for a process's life."""

import platform
import subprocess
import sys

import pytest
from processes import printed

SCRIPT = """
import resource, sys
import numpy as np
from mec.runtime.machine import keep_freed

if "keep" in sys.argv:
    assert keep_freed()
for turn in range(20):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8_000_000)  # 64 MB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_memory_that_was_freed_is_used_again_without_being_mapped_again(tmp_path):
    kept, given_back = (int(printed(SCRIPT, *words, folder=tmp_path)) for words in (["keep"], []))
    assert 5 * kept < given_back  # 18 times 31 large pages, or 15,600 usual ones


PEAK = """
import numpy as np
from mec.runtime.machine import keep_freed, peak_memory, reset_peak_memory

keep_freed()
np.ones(100_000_000)  # 0.75 GiB, freed at once
reset_peak_memory("cpu")
np.ones(25_000_000)
print(peak_memory("cpu"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_peak_memory_is_that_since_the_reset_although_freed_memory_is_kept():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 0.19 < float(done.stdout) < 1  # 0.19 GiB of the array, and 0.5 of torch itself


def test_elsewhere_nothing_is_done(monkeypatch):
    from mec.runtime import machine as memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed() is False
