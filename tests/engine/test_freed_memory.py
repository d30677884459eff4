"""On Linux with glibc, what a step frees is there for the next one, without the system handing it out anew page by page."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

MEGABYTES, PAGE = 64, 4096
FAULTS = f"""
import resource, torch
from distill.engine.runtime import prepare_process
prepare_process()
for _ in range(12):  # the first few may find a small object in the way of the freed block, and take a second one or a third
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty({MEGABYTES}, 1 << 20, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a C library that is not glibc has other settings, or none")


def faults_of_a_block_that_was_freed_before(**variables: str) -> int:
    command = [sys.executable, "-W", "ignore", "-c", FAULTS]
    return int(subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True).stdout)


def test_freed_memory_is_kept():
    assert faults_of_a_block_that_was_freed_before() < 100


def test_who_has_set_glibcs_variables_is_not_overruled():
    assert faults_of_a_block_that_was_freed_before(MALLOC_MMAP_THRESHOLD_="65536") > 0.9 * MEGABYTES * (1 << 20) / PAGE
