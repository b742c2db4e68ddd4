"""What a process holds is told, and what it has freed goes back to the system."""

import sys

import pytest

from trainers.phases import release_memory, resident_gb


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked to give memory back")
def test_freed_memory_goes_back_to_the_system():
    release_memory()
    before_gb = resident_gb()
    blocks = [bytes(60_000) for _ in range(5_000)]  # too small for a mapping of their own
    kept = blocks[::500]
    del blocks
    held_gb = resident_gb()
    assert held_gb - before_gb > 0.2 and len(kept) == 10  # the last of the blocks pins the heap
    release_memory()
    assert resident_gb() - before_gb < 0.03
