"""The machine that this runs on, and what of it and of the versions a run writes down (`environment.json`)."""

import contextlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from densely.version import __version__


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(seed: int, dense_block: str, processes: int = 1) -> dict[str, Any]:
    """Where a run runs: versions, machine, command, seed, revision of the source checkout if it is one.

    Args:
        seed: of the run.
        dense_block: what the dense blocks run on.
        processes: that share the training.
    """
    import keras

    packages = ("keras", "torch", "jax", "numpy", "scikit-learn", "pillow")
    versions = {"python": platform.python_version(), "densely": __version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    found: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "versions": versions,
        "engine": keras.backend.backend(),
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "dense_block": dense_block,
            "processes": processes,
        },
        "git_revision": git_revision(Path(__file__).parent),
    }
    if keras.backend.backend() == "torch":
        import torch

        found["machine"]["threads"] = torch.get_num_threads()
        found["machine"]["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def processor() -> str:
    """The processor's own name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_revision(folder: Path) -> str | None:
    """The commit of the checkout that holds `folder`, with `+` if files differ from it; `None` outside one."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # An installed copy inside somebody's own repository must not be taken for a checkout of this one.
        if not git("ls-files", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
