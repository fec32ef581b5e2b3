"""Peak memory: of this process, of a tree of processes."""

import mmap
import subprocess
import sys
import time

import psutil
import pytest

from bench.profilers import memory
from bench.profilers.memory import TreePeak, peak_of_command, peak_rss_mb, tree_rss_mb

HOLD_150_MB = "import sys, time; block = bytearray(150_000_000); print('ready', flush=True); sys.stdin.read()"
TREE = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], input='', check=True)"


def test_the_peak_of_this_process_is_in_megabytes_and_never_falls():
    before, now = peak_rss_mb(), psutil.Process().memory_info().rss / 1e6
    assert before > 0.99 * now
    size = int((before - now + 100) * 1e6)
    with mmap.mmap(-1, size) as block:  # fresh pages, whatever the allocator keeps
        block.write(bytes(size))
        held = peak_rss_mb()
    assert 90 < held - before < 100 + 1.1 * size / 1e6
    assert peak_rss_mb() >= held


def test_a_childs_memory_belongs_to_the_tree():
    with TreePeak(interval_s=0.01) as peak:
        before = peak.mb
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD_150_MB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout
        child.stdout.readline()
        held = tree_rss_mb(psutil.Process())
        deadline = time.monotonic() + 10
        while peak.mb < held * 0.99 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.communicate("")
    assert held - before > 140
    assert peak.mb >= held * 0.99
    assert tree_rss_mb(psutil.Process()) < held - 100


def test_the_peak_is_kept_after_the_watch():
    with TreePeak(interval_s=0.01) as peak:
        pass
    seen = peak.mb
    assert 0 < seen == peak.mb


def test_a_command_is_watched_with_its_descendants():
    result = peak_of_command([sys.executable, "-c", TREE, HOLD_150_MB.replace("sys.stdin.read()", "time.sleep(0.5)")])
    assert result.status == 0
    assert 150 < result.peak_mb < 400
    assert result.seconds >= 0.5


def test_the_status_of_a_failing_command_is_passed_on():
    assert peak_of_command([sys.executable, "-c", "raise SystemExit(3)"]).status == 3


@pytest.mark.parametrize("command", [[], ["/no/such/command"]])
def test_nothing_to_start_is_one_sentence(monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "argv", ["memory", *command])
    assert memory.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_ended_process_has_no_memory():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    child.communicate(b"\n")
    assert tree_rss_mb(process) == 0.0
