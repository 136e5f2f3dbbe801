"""Options: what a caller may say about a request beside the dialect itself, read into Bounds and a few switches.

Three places: `x-waypost-*` headers, the `waypost` object of the body (which wins, being nearer to the request), and
OpenRouter's `provider`, `models` and suffix fields (compatibility: OpenRouter docs, 2026-08). An unknown key or a value out of
range is refused with its name, so that nobody believes in a bound that is not kept.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct

from waypost.core import price
from waypost.core.faults import Refused
from waypost.core.types import UNBOUND, Bounds

_UNHEARD = ("plugins", "transforms", "debug", "trace")  # of OpenRouter: understood and not acted on, so reported
_ABSENT = Raw(b"null")  # msgspec 0.22 decodes no `Raw | None`
PREFIX = b"x-waypost-"
CacheMode = Literal["", "off", "exact", "semantic", "refresh"]


class Options(Struct, frozen=True):
    bounds: Bounds = Bounds()
    cache: CacheMode = ""  # "": as configured
    segment: str | None = None
    explain: Literal["", "header", "only"] = ""
    dropped: tuple[str, ...] = ()


class _Own(Struct, forbid_unknown_fields=True):
    """The `waypost` object; headers carry the same names with dashes."""

    deadline_ms: Annotated[float, Meta(gt=0, le=86_400_000)] | None = None
    max_cost_usd: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None
    min_quality: Annotated[float, Meta(ge=0, le=1)] | None = None
    cache: Literal["off", "exact", "semantic", "refresh"] | None = None
    context: Literal["full", "auto"] | None = None
    segment: Annotated[str, Meta(max_length=128, pattern=r"^[\w.:@/-]*$")] | None = None
    on_cut: Literal["error", "continue", "restart"] | None = None
    explain: bool | Literal["only"] | None = None
    retrieve: Raw = _ABSENT


_Dollars = Annotated[float, Meta(ge=0, le=1_000_000_000)]


class _MaxPrice(Struct, forbid_unknown_fields=True):
    prompt: _Dollars | None = None
    completion: _Dollars | None = None
    request: _Dollars | None = None
    image: _Dollars | None = None
    audio: _Dollars | None = None


class _Sort(Struct, forbid_unknown_fields=True):
    by: Literal["price", "throughput", "latency", "exacto"]
    partition: Literal["model", "none"] = "model"


class _Provider(Struct, forbid_unknown_fields=True):
    order: list[str] = []
    only: list[str] | None = None
    ignore: list[str] = []
    allow_fallbacks: bool = True
    require_parameters: bool = False
    data_collection: Literal["allow", "deny"] = "allow"
    zdr: bool = False
    sort: Literal["price", "throughput", "latency", "exacto"] | _Sort | None = None
    max_price: _MaxPrice | None = None
    quantizations: list[str] | None = None
    enforce_distillable_text: bool = False
    preferred_min_throughput: Any = None
    preferred_max_latency: Any = None


NOTHING: dict[str, Raw] = {}  # the fields of a body that does not steer
_NONE = Options(bounds=UNBOUND)
_own = msgspec.json.Decoder(_Own)
_provider = msgspec.json.Decoder(_Provider)


def read(headers: Iterable[tuple[bytes, bytes]], fields: dict[str, Raw]) -> Options:
    """Raises Refused (400) naming the option. The common request has none of them and costs one scan of its headers."""
    if not fields:
        for name, _ in headers:
            if name.startswith(PREFIX):
                break
        else:
            return _NONE
    own = {name[10:]: value for name, value in headers if name.startswith(PREFIX)}
    body, provider = _given(fields, "waypost"), _given(fields, "provider")
    dropped = [name for name in _UNHEARD if name in fields]
    if not own and body is None and provider is None and not dropped:
        return _NONE
    said = _said(own, body)
    bounds = _preferences(provider, dropped) if provider is not None else UNBOUND
    if said.on_cut not in (None, "error"):
        dropped.append(f"on-cut->error({said.on_cut} is not available in this version)")
    if said.context == "auto":
        dropped.append("context->full(auto is not available in this version)")
    if said.cache == "semantic":
        dropped.append("cache->exact(semantic is not available in this version)")
    if bytes(said.retrieve) != b"null":
        raise Refused(400, "unsupported_option", "retrieval is not available in this version; remove `retrieve`", param="waypost.retrieve")
    bounds = msgspec.structs.replace(
        bounds,
        deadline_s=None if said.deadline_ms is None else said.deadline_ms / 1000,
        max_cost_nusd=None if said.max_cost_usd is None else price.parse_usd(said.max_cost_usd),
        min_quality=said.min_quality,
    )
    explain: Literal["", "header", "only"] = "only" if said.explain == "only" else "header" if said.explain else ""
    return Options(
        bounds=bounds,
        cache="exact" if said.cache == "semantic" else said.cache or "",
        segment=said.segment,
        explain=explain,
        dropped=tuple(dropped),
    )


def _given(fields: dict[str, Raw], name: str) -> Raw | None:
    """null says nothing, as everywhere in this dialect."""
    value = fields.get(name)
    return None if value is None or bytes(value) == b"null" else value


def _said(own: dict[bytes, bytes], body: Raw | None) -> _Own:
    values: dict[str, Any] = {}
    for name, value in own.items():
        text = name.decode("latin-1")
        field = text.replace("-", "_")
        if field not in _Own.__struct_fields__ or field == "retrieve":
            known = ", ".join(f"x-waypost-{f.replace('_', '-')}" for f in _Own.__struct_fields__ if f != "retrieve")
            raise Refused(400, "unknown_option", f"the header x-waypost-{text} is not known; known: {known}", param=f"x-waypost-{text}")
        values[field] = _header(field, text, value)
    if body is None:
        return _Own(**values)
    try:
        said = _own.decode(body)
    except msgspec.MsgspecError as e:
        raise Refused(400, "invalid_option", f"`waypost`: {e}", param="waypost") from e
    given = {f: v for f in _Own.__struct_fields__ if (v := getattr(said, f)) is not None and v is not _ABSENT}
    return _Own(**{**values, **given})


def _header(field: str, name: str, value: bytes) -> Any:
    text = value.decode("latin-1").strip()
    if field == "explain":
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": None,
            "false": None,
            "no": None,
            "off": None,
            "": None,
            "only": "only",
        }
        if text.lower() in words:
            return words[text.lower()]
        raise Refused(400, "invalid_option", f"x-waypost-explain is {text[:40]!r}; use true or only", param="x-waypost-explain")
    kind = next(f.type for f in msgspec.structs.fields(_Own) if f.name == field)
    try:
        if text.lower() == "null":  # which a lax reading would take for "not bound"
            raise msgspec.ValidationError("Expected a value")
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as e:
        choices = [str(c) for one in get_args(kind) if get_origin(one) is Literal for c in get_args(one)]
        fix = f"use one of {', '.join(choices)}" if choices else str(e)
        raise Refused(400, "invalid_option", f"x-waypost-{name} is {text[:40]!r}: {fix}", param=f"x-waypost-{name}") from e


def _preferences(raw: Raw, dropped: list[str]) -> Bounds:
    try:
        p = _provider.decode(raw)
    except msgspec.MsgspecError as e:
        raise Refused(400, "invalid_option", f"`provider`: {e}", param="provider") from e
    dropped += [
        f"provider.{n}" for n in ("quantizations", "preferred_min_throughput", "preferred_max_latency") if getattr(p, n) is not None
    ]
    if p.enforce_distillable_text:
        raise Refused(
            400, "unsupported_option", "enforce_distillable_text: not known here; remove it", param="provider.enforce_distillable_text"
        )
    sort = p.sort.by if isinstance(p.sort, _Sort) else p.sort
    if sort == "exacto":
        dropped.append("provider.sort->(exacto is not available in this version)")
        sort = None
    top = p.max_price or _MaxPrice()
    dropped += [f"provider.max_price.{n}" for n in ("request", "image", "audio") if getattr(top, n) is not None]
    if isinstance(p.sort, _Sort) and p.sort.partition == "none":
        dropped.append("provider.sort.partition->model")
    return Bounds(
        only=None if p.only is None else frozenset(p.only),
        ignore=frozenset(p.ignore),
        order=tuple(p.order),
        allow_fallbacks=p.allow_fallbacks,
        require_parameters=p.require_parameters,
        data_collection_deny=p.data_collection == "deny",
        zero_retention=p.zdr,
        sort=sort,
        max_input_nusd_per_mtok=None if top.prompt is None else price.parse_usd(top.prompt),
        max_output_nusd_per_mtok=None if top.completion is None else price.parse_usd(top.completion),
    )
