"""Mutation testing of the core: mutmut changes the code in one place at a time, and the tests should notice.

python tests/mutants.py               # all of TESTS, most of an hour
python tests/mutants.py splits claim  # those whose paths have one of these in them

All is done in a copy, which is removed afterwards. What the tests did not notice is printed, change by change: a hole
in them, or the same said in other words.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

HOME = Path(__file__).parents[1]

_BLOCK = ("kernels/test_dense_block.py", "kernels/test_dropout.py")
_NATIVE = ("kernels/test_native.py",)
_SGD = ("kernels/test_sgd.py", "training/test_optimizers.py")
_TRANSITION = ("kernels/test_transition.py",)

#: Which tests are to notice: for every source the fast ones that are about it. Sources with the same run together.
TESTS: Mapping[str, Sequence[str]] = {
    "architecture.py": ("test_architecture.py",),
    "data/splits.py": ("data/test_splits.py", "data/test_iterative.py"),
    "training/resume/checkpoint.py": ("training/resume/test_checkpoint.py",),
    "training/resume/claim.py": ("training/resume/test_claim.py",),
    "training/resume/keeper.py": ("training/resume/test_keeper.py",),
    "training/resume/state.py": ("training/resume/test_state.py",),
    "kernels/plan.py": ("kernels/test_plan.py",),
    "kernels/normalisation.py": ("kernels/test_normalisation.py",),
    "kernels/batch_norm.py": ("kernels/test_batch_norm.py",),
    "kernels/dropout.py": ("kernels/test_dropout.py", "kernels/test_native.py::test_both_engines_draw_the_same_masks"),
    "kernels/dense_block.py": _BLOCK,
    "kernels/forward.py": _BLOCK,
    "kernels/backward.py": _BLOCK,
    "kernels/operators/block.py": _BLOCK,
    "kernels/operators/gamma.py": ("kernels/operators/test_gamma.py",),
    "kernels/operators/products.py": _BLOCK,
    "kernels/operators/rows.py": ("kernels/operators/test_rows.py",),
    "kernels/operators/statistics.py": _BLOCK,
    "kernels/native/batch_norm.py": ("kernels/test_batch_norm.py",),
    "kernels/native/block.py": _NATIVE,
    "kernels/native/sgd.py": _SGD,
    "kernels/native/training.py": _NATIVE,
    "kernels/native/transition.py": _NATIVE,
    "kernels/sgd.py": _SGD,
    "kernels/transition.py": _TRANSITION,
    "kernels/operators/transition.py": _TRANSITION,
}

#: Names of tests, or parts of them, that are left out: they take seconds, ask another process, which has no mutant, or
#: start OpenMP's threads, which do not outlive the fork that every mutant is.
SLOW = (
    "applications", "as_near_as", "compiler", "fresh_process", "(gradcheck and not 0.3-3 and not 0.3-False)", "jax",
    "many_chunks", "published_ones", "saved_bytes", "threads", "two_processes",
)  # fmt: skip

#: Functions that are called when their module is imported, once, before there is a mutant: theirs are not counted.
AT_IMPORT = ("densely.architecture.x__bc__", "densely.architecture.x__imagenet__")

#: What mutmut says of a mutant that the tests noticed: "suspicious" is a process that ended by itself, and our own
#: `Interrupted` out of a test looks to it like Ctrl-C.
NOTICED = ("killed", "timeout", "segfault", "suspicious", "check was interrupted by user")

# A failing example is not made smaller: that it fails is all that is asked.
_PROFILE = """
import hypothesis
hypothesis.settings.register_profile(
    "mutants", phases=["explicit", "generate"], report_multiple_bugs=False, database=None, derandomize=True
)
hypothesis.settings.load_profile("mutants")
"""

_SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = {sources}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = {options}
also_copy = ["tests", "README.md"]
timeout_multiplier = 6.0
timeout_constant = 5.0
"""


def copied(place: Path, sources: Sequence[str], tests: Sequence[str]) -> None:
    """A copy of the checkout, with all that mutmut asks for in it.

    Args:
        place: a folder that is not there yet.
        sources: under `src/densely`, to be mutated.
        tests: under `tests`, to be run.
    """
    place.mkdir()
    for folder in ("src", "tests"):
        shutil.copytree(HOME / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(HOME / name, place)
    with (place / "tests" / "conftest.py").open("a") as file:
        file.write(_PROFILE)
    with (place / "pyproject.toml").open("a") as file:
        file.write(
            _SETTINGS.format(
                sources=[f"src/densely/{source}" for source in sources],
                tests=[f"tests/{test}" for test in tests],
                options=["-x", "-q", "-p", "no:cacheprovider", "-k", " and ".join(f"not {part}" for part in SLOW)],
            )
        )


def mutmut(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of mutmut's in a copy, with what it said."""
    # One build of the compiled loops for all copies; each process has one thread, as in `make test`.
    environment = {"DENSELY_KERNELS": str(place.parent / "kernels"), "OMP_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, "-m", "mutmut", *words]
    return subprocess.run(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def tried(place: Path) -> dict[str, str]:
    """What became of every mutant in a copy, by its name.

    Raises:
        SystemExit: if mutmut did not come to its end; what it said is printed.
    """
    # One at a time: where several share the cores, time runs out for what would have survived.
    done = mutmut(place, "run", "--max-children", "1")
    lines = mutmut(place, "results", "--all", "true").stdout.splitlines()
    fates = dict(line.strip().split(": ") for line in lines if "__mutmut_" in line)
    if done.returncode or not fates or "not checked" in fates.values():
        said = [line for line in done.stdout.splitlines() if not line.startswith(tuple("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"))]  # it spins
        raise SystemExit("\n".join(["mutmut ended before all mutants were tried:", *said[-50:]]))
    return {name: fate for name, fate in fates.items() if not name.startswith(AT_IMPORT)}


def change(place: Path, name: str) -> str:
    """What a mutant changes: the lines that go and that come."""
    lines = [line for line in mutmut(place, "show", name).stdout.splitlines() if line.startswith(("-", "+"))]
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def row(source: str, fates: Iterable[str]) -> str:
    """A line of the table; a mutant counts as killed if a test failed or came to no end."""
    count = Counter(fates)
    total, by_time, unseen = count.total(), count["timeout"], count["survived"]
    ended = sum(count[fate] for fate in NOTICED)
    others = total - ended - unseen
    share = ended / max(total, 1)
    return f"| `{source}` | {total} | {ended - by_time} | {by_time} | {unseen} | {others} | {share:.1%} |"


def main(only: Sequence[str]) -> None:
    """Try the mutants of all sources that are asked for, and print the table."""
    chosen = [source for source in TESTS if not only or any(part in source for part in only)]
    if not chosen:
        raise SystemExit(f"No source has {' or '.join(only)} in its path; there are: {', '.join(TESTS)}.")
    paths = [HOME / "src/densely" / source for source in TESTS]
    paths += [HOME / "tests" / test.partition("::")[0] for tests in TESTS.values() for test in tests]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise SystemExit(f"TESTS in {__file__} names what is not there: {', '.join(missing)}.")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, tests in enumerate(dict.fromkeys(TESTS[source] for source in chosen)):
            sources = [source for source in chosen if TESTS[source] == tests]
            place = Path(temporary, str(number))
            copied(place, sources, tests)
            fates = tried(place)
            for source in sources:
                module = "densely." + source.removesuffix(".py").replace("/", ".") + ".x"
                own = {name: fate for name, fate in fates.items() if name.startswith(module)}
                rows.append(row(source, own.values()))
                print(rows[-1], flush=True)
                for name, fate in own.items():
                    if fate not in NOTICED:
                        print(f"\n{name}: {fate}\n{change(place, name)}", flush=True)
            shutil.rmtree(place)
    print("\n| source | mutants | killed | by time | survived | no tests | killed of all |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
