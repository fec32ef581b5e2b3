"""Provenance: what is asked for is there, and nothing that names a person or a machine."""

import getpass
import json
import socket
from pathlib import Path

import pytest

from bench.core import provenance
from bench.core.provenance import environment, usable_cores


def test_environment_says_what_a_reader_needs():
    found = environment(threads=2)
    assert found["threads"] == 2
    assert found["cores"] >= 1
    assert found["load"] >= 0
    assert found["cpu"]
    assert {"numpy", "torch"} <= found["versions"].keys()
    assert json.loads(json.dumps(found)) == found


def test_environment_names_neither_host_nor_user_nor_path():
    text = json.dumps(environment())
    for secret in (socket.gethostname(), str(Path.home()), str(Path(__file__).parent.parent)):
        assert len(secret) < 4 or secret not in text
    assert f"/{getpass.getuser()}" not in text


def test_commit_is_that_of_our_own_checkout(monkeypatch: pytest.MonkeyPatch):
    said = {("rev-parse", "HEAD"): "0123abcd", ("ls-files", "--error-unmatch", "provenance.py"): "provenance.py"}
    monkeypatch.setattr(provenance, "_git", lambda *arguments: said.get(arguments, " M bench/runs/phases.py"))
    assert provenance._commit() == "0123abcd"
    assert provenance._dirty() is True
    del said["ls-files", "--error-unmatch", "provenance.py"]  # installed inside somebody else's checkout
    monkeypatch.setattr(provenance, "_git", lambda *arguments: said.get(arguments))
    assert provenance._commit() is None
    assert provenance._dirty() is None


@pytest.mark.parametrize(("text", "cores"), [("max 100000", 8), ("150000 100000", 1), ("400000 100000", 4), ("", 8)])
def test_usable_cores_heed_a_container_quota(monkeypatch: pytest.MonkeyPatch, text: str, cores: int):
    monkeypatch.setattr(provenance.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(provenance.Path, "read_text", lambda _: text)
    assert usable_cores() == cores
