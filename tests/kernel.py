"""A real Jupyter kernel for notebooks: this Python's, fed by nbclient, with this checkout and nothing of the user's.

python tests/kernel.py notebooks/densenet.ipynb     # runs it, and writes it with its outputs
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SRC = Path(__file__).parents[1] / "src"


def executed(notebook: nbformat.NotebookNode, folder: Path, seconds: int = 180) -> nbformat.NotebookNode:
    """Run a copy of a notebook from top to bottom; the first error of a cell is raised.

    Args:
        notebook: what to run.
        folder: where it runs, and where Jupyter may write its own files.
        seconds: that one cell may take.

    Returns:
        The notebook with its outputs.
    """
    own = folder / "ipython"
    own.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SRC), os.environ.get("PYTHONPATH", "")]),
        "IPYTHONDIR": str(own),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # whatever the tests themselves draw on
    }
    with warnings.catch_warnings():
        # Jupyter's own: old ways of asyncio and tornado, sockets that are closed late.
        for module in ("jupyter_client", "jupyter_core", "nbclient", "zmq", "tornado", "asyncio"):
            warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
        client = NotebookClient(
            notebook,
            timeout=seconds,
            kernel_name="python3",
            record_timing=False,  # times of day are noise in a committed file
            coalesce_streams=True,  # one output however the kernel cut what was printed
            resources={"metadata": {"path": str(folder)}},
        )
        run: nbformat.NotebookNode = client.execute(env=environment)
    return run


def of(*cells: str) -> nbformat.NotebookNode:
    """A notebook of code cells."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def text(cell: nbformat.NotebookNode) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            nbformat.write(executed(nbformat.read(name, 4), Path(scratch)), name)
