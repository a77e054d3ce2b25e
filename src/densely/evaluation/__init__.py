"""How good a trained network is.

What it says of images (`views`), what that is worth (`metrics`), how far its probabilities can be trusted
(`calibration`), and all of it on one screen (`scorecard`). Nothing here trains.
"""

from densely.evaluation.metrics import evaluate, evaluate_held_out, held_out_scores, scores, summarise, wilson
from densely.evaluation.views import Views, probabilities

__all__ = [
    "Views",
    "evaluate",
    "evaluate_held_out",
    "held_out_scores",
    "probabilities",
    "scores",
    "summarise",
    "wilson",
]
