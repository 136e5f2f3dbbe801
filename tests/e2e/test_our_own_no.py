"""What we refuse ourselves after the race has begun: nothing more is sent or billed, and the caller hears why."""

from typing import Any

import pytest
from e2e_kit import chat, model, provider, route

from waypost.sim.provider import Simulator

BROKEN_IMAGE: Any = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:nonsense"}}]


@pytest.fixture
def gateway(serve: Any, sim: Simulator) -> Any:
    origin = f"http://127.0.0.1:{sim.port}"
    return serve(
        provider("one", f"{origin}/p/one")
        + provider("two", f"{origin}/p/two", "anthropic-messages")
        + model("one/down", "fail-503")
        + model("two/ok", "ok")
        + route("both", "one/down", "two/ok")
    )


@pytest.mark.parametrize(("wish", "rows"), [("two/ok", 0), ("both", 1)], ids=["at once", "after a failover"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_prompt_that_cannot_be_told_to_the_next_provider_is_the_callers_400(gateway: Any, wish: str, rows: int, stream: bool) -> None:
    answer = gateway.ask(chat(wish, stream=stream) | {"messages": [{"role": "user", "content": BROKEN_IMAGE}]})
    assert answer.status == 400, answer.body
    assert "image" in answer.json["error"]["param"] or "image" in answer.json["error"]["message"]
    request_id = answer.headers["x-request-id"]
    assert len([r for r in gateway.rows(request_id) if r["outcome"] == "failed"]) in (rows, rows * 2)  # a 503 may be tried twice
    assert all(r["outcome"] == "failed" for r in gateway.rows(request_id))
    assert gateway.ask(chat("two/ok")).status == 200
