"""`densely serve`: a trained network behind HTTP, on ONNX Runtime.

A request's way, and a module for each step of it:

    connection.py   a socket: how many there are, and how long one may take to say what it wants
    guard.py        a request: who may ask, how large it is, how long it takes, how many are at work
    app.py          what it asks for: /predict, /health, /metrics, /openapi.json, the page
    decoding.py     bytes to pixels, within limits
    batching.py     images that wait are answered together
    engine.py       the ONNX file

`limits.py` holds every limit, `metrics.py` what is counted, `preparing.py` makes an ONNX file of a run, in a process of
its own, so that the server holds neither Keras nor PyTorch; `server.py` starts and ends it all.
"""

from __future__ import annotations

from importlib import import_module

from densely.errors import UsageError

#: What the extra `serve` brings.
PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "prometheus_client", "python_multipart")


def check() -> None:
    """Look whether a server can run here.

    Raises:
        UsageError: if a package is missing.
    """
    try:
        for package in PACKAGES:
            import_module(package)
    except ImportError:
        raise UsageError("densely serve needs packages that are not installed: pip install 'densely[serve]'.") from None
