"""What a sweep tries: `SPACE.toml`, read and checked.

    epochs = 20                                                   # a value: the same in every trial
    optimizer = ["sgd", "muon"]                                   # a list: one of these
    learning_rate = {low = 0.01, high = 1.0, log = true}          # a range, evenly in the logarithm
    dropout = {low = 0.0, high = 0.5, step = 0.1}                 # a range in steps

Names are those of `densely train`'s options and of `Recipe`'s fields.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from densely.architecture import NetworkSpec, spec
from densely.errors import DenselyError, UsageError, from_validation, reason, unknown
from densely.recipes import Recipe, named
from densely.runs import Start

if TYPE_CHECKING:
    import optuna

#: Of a recipe's fields those that are no setting of it; the notebook's look at the test part is none for a sweep.
_NOT_SET = {"name", "stages", "validate_on_test"}
NETWORK = ("depth", "growth_rate", "dropout")
_START = {"freeze": Start.model_fields["freeze"], "stage_rates": Start.model_fields["stage_rates"]}
_TEXT = FieldInfo(annotation=str)
FIELDS: Mapping[str, FieldInfo] = {
    **{"recipe": _TEXT, "model": _TEXT, "weights": _TEXT, **_START},
    **{name: NetworkSpec.model_fields[name] for name in NETWORK},
    **{name: field for name, field in Recipe.model_fields.items() if name not in _NOT_SET},
}
"""Everything that a sweep can set, and what values it takes."""


class Range(BaseModel):
    """Numbers from `low` to `high`, both among them.

    Attributes:
        low, high: its ends; whole numbers for a setting that is one.
        log: evenly in the logarithm.
        step: only `low`, `low + step`, … up to `high`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}.")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} has no logarithm: leave log out, or let it begin above 0.")
        if self.step is not None:
            if self.log:
                raise ValueError("step and log do not go together: leave one of them out.")
            if self.step <= 0:
                raise ValueError(f"step = {self.step:g} must be above 0.")
            if (_exact(self.high) - _exact(self.low)) % _exact(self.step):
                raise ValueError(f"steps of {self.step:g} from low = {self.low:g} do not meet high = {self.high:g}.")
        return self


@dataclass(frozen=True)
class Space:
    """What a sweep tries.

    Attributes:
        fixed: settings that are the same in every trial.
        searched: the others, each with its range or its choices.
    """

    fixed: dict[str, Any]
    searched: dict[str, Range | tuple[Any, ...]]

    @property
    def corner(self) -> dict[str, Any]:
        """The settings of one trial that could be: every range's low end, the first of all choices."""
        return {**self.fixed, **{name: _first(name, one) for name, one in self.searched.items()}}

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON and TOML have it."""
        searched = {
            name: one.model_dump(exclude_none=True) if isinstance(one, Range) else list(one)
            for name, one in self.searched.items()
        }
        return {**self.fixed, **searched}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The settings of a trial, as Optuna chooses them; a trial that was broken off keeps those it had."""
        return {**self.fixed, **{name: _suggest(trial, name, one) for name, one in self.searched.items()}}


def read(path: str | Path) -> Space:
    """Read a space.

    Args:
        path: of a TOML file as above.

    Raises:
        UsageError: if there is no such file, or it is no such space: the setting and what is wrong with it.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no space {path}: give a TOML file of settings and their ranges.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}") from None
    try:
        return parse(found)
    except DenselyError as error:
        raise UsageError(f"{path}: {error}") from None


def parse(values: Mapping[str, Any]) -> Space:
    """A space from what a TOML file says.

    Raises:
        UsageError: for a name that is no setting, a value that it does not take, or nothing to search.
    """
    fixed: dict[str, Any] = {}
    searched: dict[str, Range | tuple[Any, ...]] = {}
    for written, value in values.items():
        name = _name(written)
        if name in fixed or name in searched:
            raise UsageError(f"{name} stands there twice, once as {written}.")
        if isinstance(value, dict):
            searched[name] = _range(name, value)
        elif isinstance(value, list):
            searched[name] = _choices(name, value)
        else:
            fixed[name] = _value(name, value)
    if not searched:
        raise UsageError('there is nothing to search: give a range, like learning_rate = {low = 0.01, high = 1.0}, '
                         'or choices, like optimizer = ["sgd", "muon"].')  # fmt: skip
    return Space(fixed, searched)


def arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as `densely.train` takes them: those of the network stand together."""
    network = {name: settings[name] for name in NETWORK if name in settings}
    return {**{name: value for name, value in settings.items() if name not in NETWORK}, "network": network}


def _name(written: str) -> str:
    name = written.replace("-", "_")
    name = "learning_rate" if name == "lr" else name
    if name not in FIELDS:
        raise unknown("setting", written, FIELDS)
    return name


def _range(name: str, value: dict[str, Any]) -> Range:
    whole, number = _kinds(name)
    if not number:
        raise UsageError(f"{name} takes no range, but choices, like {name} = [{_example(name)}].")
    for key in value:
        if key not in Range.model_fields:
            raise UsageError(f"{name}: {unknown('part of a range', key, Range.model_fields)}")
    if not {"low", "high"} <= value.keys():
        raise UsageError(f"{name}: a range has two ends, like {name} = {{low = …, high = …}}.")
    try:
        found = Range(**value)
    except ValidationError as error:
        told = str(from_validation(name, error))
        raise UsageError(told if told.startswith(f"{name}:") else f"{name}: {told}") from None
    for end in ("low", "high"):
        _value(name, value[end])
    if whole and found.step is not None and not found.step.is_integer():
        raise UsageError(f"{name}: step = {found.step:g} must be a whole number, as {name} is.")
    return found


def _choices(name: str, values: list[Any]) -> tuple[Any, ...]:
    if len(values) < 2 or len({repr(value) for value in values}) < len(values):
        raise UsageError(
            f"{name} = {values}: choices are two or more, all different; a single value stands without []."
        )
    return tuple(_value(name, value) for value in values)


def _value(name: str, value: Any) -> Any:
    field = FIELDS[name]
    kind: Any = Annotated[field.annotation, field]
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        message = str(error.errors()[0]["msg"])
        raise UsageError(f"{name} = {value!r}: {message[0].lower()}{message[1:]}.") from None
    if name == "recipe":
        named(value)
    if name == "model":
        spec(value)
    return value


def _kinds(name: str) -> tuple[bool, bool]:
    """Whether a setting is a whole number, and whether it is a number at all."""
    annotation = FIELDS[name].annotation
    kinds = set(get_args(annotation) or (annotation,)) - {NoneType}
    return kinds == {int}, kinds <= {int, float}


def _example(name: str) -> str:
    annotation = FIELDS[name].annotation
    if annotation is bool:
        return "true, false"
    named_values = [value for value in get_args(annotation) if isinstance(value, str)]
    return ", ".join(f'"{value}"' for value in named_values[:2]) or '"…", "…"'


def _first(name: str, one: Range | tuple[Any, ...]) -> Any:
    if not isinstance(one, Range):
        return one[0]
    return int(one.low) if _kinds(name)[0] else one.low


def _exact(number: float) -> Decimal:
    return Decimal(str(number))


def _suggest(trial: optuna.Trial, name: str, one: Range | tuple[Any, ...]) -> Any:
    if not isinstance(one, Range):
        return trial.suggest_categorical(name, one)
    if _kinds(name)[0]:
        return trial.suggest_int(name, int(one.low), int(one.high), step=int(one.step or 1), log=one.log)
    return trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
