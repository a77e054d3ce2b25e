"""The figures of a sweep's page."""

from itertools import pairwise

import numpy as np
import pytest

from densely.report.sweep_figures import slices
from densely.report.sweep_page import Axis, Trial


@pytest.mark.parametrize("rates", [(0.09, 0.1, 0.13, 0.88), (1e-4, 1e-3, 0.02, 1.0), (0.3, 0.31), (0.5,)])
def test_names_on_a_logarithmic_axis_keep_apart(rates: tuple[float, ...]) -> None:
    trials = [Trial(i, "done", 0.9, {"learning_rate": rate}, [(1, 0.9)]) for i, rate in enumerate(rates)]
    figure = slices(trials, [Axis("learning_rate", log=True)] * 4, "held-out accuracy")
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    boxes = [label.get_window_extent() for label in axis.get_ticklabels(which="both") if label.get_text()]
    assert boxes
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    shown = [float(label.get_text()) for label in axis.get_ticklabels() if label.get_text()]
    np.testing.assert_allclose([shown[0], shown[-1]], [min(rates), max(rates)], rtol=0.05)
