"""The endpoint of a provider: what is signed, and what of it must never be repeated."""

from waypost import config as cf
from waypost.core.types import Failure, Fault, ProviderCard
from waypost.endpoint import endpoint

CARD = ProviderCard(name="lab", wire="openai-chat", base_url="http://lab.test/v1", auth="bearer")


def test_a_key_that_looks_like_none_is_hidden_wherever_a_provider_quotes_it() -> None:
    lab = endpoint(CARD, "plainwords99", cf.Provider())
    told = lab.redact(Failure(Fault.BAD_REQUEST, "key plainwords99 is bad", code="plainwords99", param="plainwords99"))
    assert (told.message, told.code, told.param) == ("key [redacted] is bad", "[redacted]", "[redacted]")


def test_a_failure_that_quotes_nothing_is_passed_on_as_it_is() -> None:
    failure = Failure(Fault.BAD_REQUEST, "bad")
    assert endpoint(CARD, "plainwords99", cf.Provider()).redact(failure) is failure
    assert endpoint(CARD, "", cf.Provider()).redact(failure) is failure
