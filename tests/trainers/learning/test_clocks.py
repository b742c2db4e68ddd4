"""What a process holds is told, and what it has freed goes back to the system."""

import sys

import numpy as np
import pytest

from trainers.run.process import held_gb, release_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked to give memory back")
def test_freed_memory_goes_back_to_the_system():
    release_memory()
    before_gb = held_gb()
    blocks = [bytes(60_000) for _ in range(5_000)]  # too small for a mapping of their own
    kept = blocks[::500]
    del blocks
    full_gb = held_gb()
    assert full_gb - before_gb > 0.2 and len(kept) == 10  # the last of the blocks pins the heap
    release_memory()
    assert held_gb() - before_gb < 0.03


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_pages_of_mapped_files_are_not_held(tmp_path):
    path = tmp_path / "library"
    path.write_bytes(bytes(100_000_000))
    release_memory()  # what earlier tests have freed would hold the array without growing
    before_gb = held_gb()
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    assert mapped.sum() == 0 and held_gb() - before_gb < 0.02  # every page was read
    own = np.ones(100_000_000, np.uint8)
    assert own.all() and held_gb() - before_gb > 0.09
