"""The page on a variation of one's own: its Python runs, from top to bottom, as it stands."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from processes import densely

PAGE = Path(__file__).parents[2] / "docs" / "own-block.md"


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path: Path) -> None:
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text(encoding="utf-8"))
    program = "\n".join(token.content for token in tokens if token.type == "fence" and token.info == "python")
    assert program.count("epochs=20") == 2
    program = program.replace("epochs=20", "epochs=2") + OPENED
    script = tmp_path / "own_block.py"
    script.write_text(program, encoding="utf-8")
    done = densely(script=script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shape, first, second, score, difference = done.stdout.splitlines()
    assert shape == "(None, 8, 8, 72)"
    assert first.startswith("epoch 1/2") and second.startswith("epoch 2/2")
    assert 60 < float(score.removesuffix(" %")) <= 100
    assert float(difference) == pytest.approx(0, abs=1e-6)


#: That what was saved is opened by what the page says, and answers alike.
OPENED = """
import numpy as np
import densely.layers
images = preprocessing(parts.test.images[:8])
again = keras.saving.load_model("mine.keras")
print(np.abs(again.predict(images, verbose=0) - model.predict(images, verbose=0)).max())
"""
