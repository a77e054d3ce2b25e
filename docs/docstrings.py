"""An extension of Griffe, which reads the docstrings for the API reference: what the house style writes shorter.

mean, std: per channel          becomes an entry each, so that each gets its own type and default
Example:                        becomes `Examples:`, so that what follows `>>>` is shown as code
attributes with a default       say so: Griffe tells defaults of arguments only
"""

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^( {4,})(\w+(?:, \w+)*): (.*(?:\n\1 +.*)*)", re.MULTILINE)
SECTION = re.compile(r"^( *)(Args|Attributes):\n((?:\1 {4}.*\n?|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is None:
            return
        text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value = SECTION.sub(lambda section: _section(section, obj), text)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Called when a class's attributes are known too."""
        if cls.docstring is not None:
            cls.docstring.value = SECTION.sub(
                lambda section: _section(section, cls, defaults=True), cls.docstring.value
            )


def _section(section: re.Match[str], obj: griffe.Object, defaults: bool = False) -> str:
    indent, kind, entries = section.groups()

    def apart(entry: re.Match[str]) -> str:
        space, names, text = entry.groups()
        return "\n".join(
            f"{space}{name}: {text}{_default(obj, name) if defaults and kind == 'Attributes' else ''}"
            for name in names.split(", ")
        )

    return f"{indent}{kind}:\n{ENTRY.sub(apart, entries)}"


def _default(obj: griffe.Object, name: str) -> str:
    """What an attribute is if nobody says otherwise, in words, or nothing."""
    value = getattr(obj.members.get(name), "value", None)
    if isinstance(value, griffe.ExprCall) and str(value.function) == "Field":
        given = [a.value for a in value.arguments if isinstance(a, griffe.ExprKeyword) and a.name == "default"]
        value = given[0] if given else None
    return "" if value is None else f" Default: `{value}`."
