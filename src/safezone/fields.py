"""Numbers with a range: types for settings and options, and one sentence for other values.

A dataclass that extends ``Checked`` refuses values that its fields' types do not allow; so does
pydantic, which reads YAML files into the same dataclasses. ``reason`` says both in equal words.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, ClassVar, Final, TypeAlias, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from safezone.errors import UserError

Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]
"""How many, at least one."""
Natural: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
"""A whole number from 0, such as a seed."""
Quality: TypeAlias = Annotated[int, Field(ge=1, le=100, strict=True)]
"""Of a JPEG."""
Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole, above 0 to 1."""
Portion: TypeAlias = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, or none of it."""
Rate: TypeAlias = Annotated[float, Field(gt=0, le=100)]
"""A learning rate; one of 1e38 would overflow in the optimiser."""
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number from 0."""

FileName: TypeAlias = Annotated[str, Field(pattern=r"^[\w+@][^/\\\x00-\x1f]*$", max_length=100)]
"""Of a file or folder to be made, inside the one that is meant."""

AT_LEAST_ONE: Final = Field(min_length=1)
"""Of a list that must not be empty."""

_WHAT_TO_GIVE: Final[Mapping[str, str]] = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "a number above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "a number below {lt:g}",
    "finite_number": "a finite number",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "path_type"), "text"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list, such as [a, b]"),
    **dict.fromkeys(("dataclass_type", "dict_type"), "lines of its own below it"),
    "literal_error": "{expected}",
    "string_pattern_mismatch": "a name without slashes that begins with a letter or a digit",
    "string_too_long": "at most {max_length} characters",
}


class FieldError(UserError):
    """A value outside its field's type: the field's name, the value, what is wrong with it."""

    def __init__(self, field: str, value: Any, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.value, self.reason = field, value, reason


def reason(error: ErrorDetails) -> str:
    """What is wrong and what to give, to stand behind a name: ``is 0; give at least 1``."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "too_short":
        return "is empty; give at least one"
    if kind == "missing":
        return "is missing; add it"
    if kind == "unexpected_keyword_argument":
        return "is not known; remove or rename it"
    if kind == "value_error":
        return f"is wrong: {context['error']}"
    give = _WHAT_TO_GIVE.get(kind, error["msg"][0].lower() + error["msg"][1:])
    if kind in ("finite_number", "less_than_equal") and value != value:
        give = "a number"
    shown = "nothing" if value is None else repr(value) if isinstance(value, str) else value
    return f"is {shown}; give {give.format(**context)}"


def located(error: ValidationError, whole: str = "") -> str:
    """Where the first fault is, and its ``reason``; ``whole``: what it is called."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or whole} {reason(first)}"


def plural(number: int | str, noun: str) -> str:
    """``1 image``, ``3 images``."""
    return f"{number} {noun}{'' if str(number) == '1' else 's'}"


@cache
def checks_of(kind: Any) -> TypeAdapter[Any]:
    """Pydantic's checks of a type, which take longer to build than to use."""
    return TypeAdapter(kind)


class Closed:
    """A dataclass that takes no keys but its fields where pydantic reads it."""

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}


class Checked(Closed):
    """A dataclass whose values are checked when it is made; raises FieldError."""

    def __post_init__(self) -> None:
        require_fields(self)


def require_fields(owner: Any) -> None:
    """Raises FieldError for the first field of a dataclass whose value its type does not allow."""
    kind: Any = type(owner)
    for name, adapter in _checks(kind).items():
        try:
            adapter.validate_python(getattr(owner, name), strict=True)
        except ValidationError as error:
            value = getattr(owner, name)
            raise FieldError(name, value, reason(error.errors()[0])) from error


@cache
def _checks(kind: type) -> Mapping[str, TypeAdapter[Any]]:
    """A check for every field whose type has a range."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        each.name: TypeAdapter(hints[each.name])
        for each in fields(kind)
        if _has_range(hints[each.name])
    }


def _has_range(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return any(isinstance(mark, FieldInfo) for mark in marks) or any(
        map(_has_range, get_args(hint) if not marks else get_args(hint)[:1])
    )
