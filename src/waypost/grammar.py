"""Grammar: a TOML table -> a frozen struct, every problem noted with its path, the value seen and the fix.

Knows types, not options: what they are called and mean is `config`'s. Reads on after a problem, so that all are told at once; shows
no value that may be a secret.
"""

import difflib
import math
import re
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

import msgspec
from msgspec import Struct

_REFERENCE = re.compile(r"(env:\w+|file:.*|none)$")
_TELLING = re.compile(r"key|secret|token|password|passwd|credential|auth", re.IGNORECASE)
_LIKE_A_SECRET = re.compile(r"^(sk|pk|rk|gsk|xai|hf|AIza|Bearer)[-_ A-Za-z0-9]{8}|[A-Za-z0-9_-]{32}|://[^/]*@|[?&]\w*(key|token|password)=")


class Problem(Struct, frozen=True):
    """One thing wrong with the configuration. `seen` is the value as written, shortened; never a secret."""

    path: str
    seen: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.fix}" if not self.seen else f"{self.path} = {self.seen}: {self.fix}"


class ConfigError(Exception):
    """Every problem of a configuration at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems


def joined(first: list[Problem], then: list[Problem]) -> list[Problem]:
    """Both lists without what is only an echo: a later problem of a place below which an earlier one stands."""
    known = [p.path for p in first]
    return first + [p for p in then if not any(k == p.path or k.startswith((f"{p.path}.", f"{p.path}[")) for k in known)]


def read(table: Any, into: type[Struct], path: str, problems: list[Problem]) -> Any:
    """`table` as `into`, noting every problem below `path`; a broken value falls back to its default so that the later checks
    still see the rest. None when a required value is missing or broken. Nested structs, lists and maps of structs are walked."""
    if not isinstance(table, dict):
        problems.append(Problem(path, shown(path, table), "must be a table ([section] or { key = value })"))
        return None
    entries = cast("dict[str, Any]", table)
    fields = {f.name: f for f in msgspec.structs.fields(into)}
    at = f"{path}." if path else ""
    values: dict[str, Any] = {}
    for key, value in entries.items():
        field = fields.get(key)
        if field is None:
            problems.append(Problem(f"{at}{key}", shown(key, value, is_known=False), _unknown(key, list(fields))))
            continue
        before = len(problems)
        parsed = _value(value, field.type, f"{at}{key}", problems)
        if parsed is not None or len(problems) == before:
            values[key] = parsed
    for name, field in fields.items():
        if field.required and name not in entries:
            problems.append(Problem(f"{at}{name}", "", f"is missing: write {_example(name)}"))
    return into(**values) if all(f.name in values for f in fields.values() if f.required) else None


def _value(value: Any, declared: Any, path: str, problems: list[Problem]) -> Any:
    kind: Any = _given(declared)
    origin, args = get_origin(kind), get_args(kind)
    if _is_struct(kind):
        return read(value, kind, path, problems)
    if origin in (list, tuple) and isinstance(value, list):
        items = cast("list[Any]", value)
        found = [_value(item, args[0], f"{path}[{_label(item, i)}]", problems) for i, item in enumerate(items)]
        kept = [item for item in found if item is not None]
        return tuple(kept) if origin is tuple else kept
    if origin is dict and isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        named = {name: _value(item, args[1], f"{path}.{name}", problems) for name, item in table.items()}
        return {name: item for name, item in named.items() if item is not None}
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError("must be a finite number")
        return msgspec.convert(value, cast("type[Any]", kind))
    except msgspec.ValidationError as e:
        problems.append(Problem(path, shown(path, value), _wanted(kind, value, path, str(e))))
        return None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _given(kind: Any) -> Any:
    """The type of a value that is there: TOML has no null."""
    if get_origin(kind) in (Union, UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _wanted(kind: Any, value: Any, path: str, said: str) -> str:
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        close = difflib.get_close_matches(str(value), choices, 1)
        return f"must be one of {', '.join(choices)}" + (f"; did you mean `{close[0]}`?" if close else "")
    if get_origin(kind) in (list, tuple) and isinstance(value, dict) and _is_struct(get_args(kind)[0]):
        return f"must be a list of tables: write [[{path}]] once for each"
    return said[0].lower() + said[1:]


def _label(item: Any, index: int) -> str:
    name = cast("dict[str, Any]", item).get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else str(index)


def shown(path: str, value: Any, *, is_known: bool = True) -> str:
    """The value as the user wrote it, short. What may be a secret is not shown: neither under a telling name, nor looking like one,
    nor a text under a name nobody knows (`apikey = "sk-..."`)."""
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, str) and not _REFERENCE.match(value):
        last = path.rsplit(".", 1)[-1]
        if not is_known or ".headers." in path or _TELLING.search(last) or _LIKE_A_SECRET.search(value):
            return "(not shown)"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _example(name: str) -> str:
    examples = {"name": '"NAME"', "key": '"env:NAME"', "use": '["provider/model"]', "usd": "100"}
    return f"{name} = {examples.get(name, '...')}"


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"unknown option; did you mean `{close[0]}`?" if close else f"unknown option; known here: {', '.join(sorted(known))}"
