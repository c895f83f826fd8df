"""A notebook run cell by cell, without a kernel: `python tests/notebooks.py docs/tutorial.ipynb`.

As a command it writes what the cells print and draw into the notebook.
"""

import base64
import contextlib
import io
import json
import sys
from pathlib import Path


def run(path):
    """(the notebook with the outputs of this run, the names that its cells left)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    notebook, names, count = json.loads(Path(path).read_text()), {}, 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("".join(cell["source"]), f"{path}, cell {count}", "exec"), names)
        cell["execution_count"] = count
        cell["outputs"] = [_printed(said.getvalue())] if said.getvalue() else []
        for number in pyplot.get_fignums():
            cell["outputs"].append(_drawn(pyplot.figure(number)))
        pyplot.close("all")
    return notebook, names


def _printed(text):
    return {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}


def _drawn(figure):
    data = io.BytesIO()
    figure.savefig(data, dpi=60, format="png", metadata={"Software": None})
    shown = {"image/png": base64.b64encode(data.getvalue()).decode(), "text/plain": ["<Figure>"]}
    return {"data": shown, "metadata": {}, "output_type": "display_data"}


if __name__ == "__main__":
    executed, _ = run(sys.argv[1])
    Path(sys.argv[1]).write_text(json.dumps(executed, indent=1) + "\n")
