"""`core` (and the serial executor) stand on the standard library: reading results needs no GPU stack."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "pydantic", "numpy", "pandas")


@pytest.mark.parametrize("package", ["bench.core", "bench.executors"])
def test_imports_nothing_heavy(package: str):
    code = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        "names = [m.name for m in pkgutil.iter_modules(package.__path__, package.__name__ + '.')]\n"
        "assert names, 'no modules found'\n"
        "for name in names: importlib.import_module(name)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_is_described_stored_and_read_without_pydantic(tmp_path):
    code = (
        "import sys\n"
        "from bench.core.spec import RunSpec\n"
        "from bench.core.store import Store\n"
        f"store, spec = Store({str(tmp_path)!r}), RunSpec('ds_net', 'micro')\n"
        "for _ in range(2): store.open_run(spec)\n"
        "store.write(spec.run_id, 'eval', {'records': [], 'results': {}})\n"
        "store.read(spec.run_id, 'eval')\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
