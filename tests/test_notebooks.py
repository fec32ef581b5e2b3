"""The notebooks run from top to bottom, hold no outputs and define nothing."""

import ast
from pathlib import Path

import nbformat
import pytest
from report_store import make_store

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_imports_calls_and_plots_only(notebook):
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    tree = ast.parse("\n".join(code_of(notebook)))
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in ast.walk(tree))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    if notebook.stem in ("read_results", "inside_the_gate"):
        make_store(tmp_path)
    monkeypatch.setenv("SLICEBENCH_RESULTS", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    contents = nbformat.read(notebook, as_version=4)
    NotebookClient(contents, timeout=600, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    shown = [output for cell in contents.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
