"""OpenAI's surface: chat completions and models. Says who asks, for what, within which bounds; the gateway does the rest."""

import msgspec

from waypost.api import options
from waypost.api.ingress import Ingress, Reached
from waypost.core import price
from waypost.core.faults import Refused
from waypost.core.types import Deployment
from waypost.dialects import openai_chat
from waypost.flight import JSON
from waypost.lane import Asked
from waypost.ports import Request, Responder

CREATED = 1_700_000_000  # the models' own dates are not known; OpenAI's SDK wants a number


def chat(ingress: Ingress, reached: Reached, request: Request, responder: Responder) -> None:
    """POST /v1/chat/completions"""
    call = openai_chat.parse(request.body)
    own = options.read(request.headers, call.fields if call.steers else options.NOTHING)
    caller = reached.caller
    ingress.gateway.serve(
        Asked(
            reached.request_id,
            call,
            caller,
            own.bounds,
            own.segment if own.segment is not None else caller.segment,
            own.cache,
            own.explain,
            own.dropped,
            reached.started_s,
            ingress.wall_ms(),
        ),
        responder,
    )


def models(ingress: Ingress, reached: Reached, request: Request, responder: Responder) -> None:
    """GET /v1/models: routes, aliases and every live chat model this caller may use."""
    world = ingress.gateway.world
    names = [*world.routes, *world.aliases]
    rows = [_row(name, "waypost") for name in dict.fromkeys(names) if reached.caller.allows(name)]
    rows += [_model(d) for d in world.chat_models() if reached.caller.allows(d.name)]
    responder.answer(200, [JSON, reached.id_header], msgspec.json.encode({"object": "list", "data": rows}))


def model(ingress: Ingress, reached: Reached, request: Request, responder: Responder) -> None:
    """GET /v1/models/{name}; a slash in the name may come as %2F."""
    name = reached.rest
    world = ingress.gateway.world
    known = name in world.routes or name in world.aliases
    deployment = world.deployment(name)
    if (not known and deployment is None) or not reached.caller.allows(name):
        near = world.nearest(name)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise Refused(404, "model_not_found", f"The model {name[:200]!r} does not exist here.{hint}", param="model", error_type="not_found")
    row = _row(name, "waypost") if deployment is None else _model(deployment)
    responder.answer(200, [JSON, reached.id_header], msgspec.json.encode(row))


def _row(name: str, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": owner}


def _model(deployment: Deployment) -> dict[str, object]:
    card = deployment.model
    pricing = {
        "prompt": _per_token(card.price.input_nusd_per_mtok),
        "completion": _per_token(card.price.output_nusd_per_mtok),
        "input_cache_read": _per_token(card.price.cached_input_nusd_per_mtok),
    }
    return {
        **_row(card.name, deployment.provider.name),
        "context_length": card.context_tokens,
        "max_output_tokens": card.max_output_tokens,
        "capabilities": sorted(card.capabilities),
        "pricing": pricing,
        "as_of": card.as_of or None,
    }


def _per_token(nusd_per_mtok: int | None) -> str | None:
    """US dollars per token as a string, as OpenRouter writes it; None: unknown."""
    if nusd_per_mtok is None:
        return None
    text = f"{nusd_per_mtok:016d}"
    whole, part = text[:-15], text[-15:].rstrip("0")
    return f"{whole}.{part}" if part else price.usd(0) if int(whole) == 0 else whole
