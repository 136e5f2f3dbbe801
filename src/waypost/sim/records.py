"""Records: what a simulated provider saw and made, one per attempt. The billing truth that a ledger is reconciled with."""

from collections.abc import Iterable

from msgspec import Struct


class Record(Struct):
    """Times are monotonic seconds of this process. Tokens are what was generated, whether or not anybody read it.

    `output_tokens` of a stream: pushed to the peer; of a whole answer: generated (all of them, or by the time the peer left).
    `peer_closed_after` counts the tokens generated when the peer left before the end; None if it stayed.
    """

    id: str
    provider: str
    path: str
    accept_s: float
    headers_s: float
    body_s: float
    connection_requests: int = 1
    dialect: str = ""
    flavour: str = ""
    model: str = ""
    marker: str = ""
    attempt: int = 0  # n-th of this marker at this provider and model
    script: str = ""
    stream: bool = False
    key: str = ""  # hash of the credential
    key_in_url: bool = False
    status: int = 0  # 0: no head was sent
    first_byte_s: float | None = None
    first_token_s: float | None = None
    last_byte_s: float | None = None
    peer_closed_s: float | None = None
    peer_closed_after: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    planned_tokens: int = 0  # of the answer, had it been said in full
    reasoning_tokens: int = 0  # of the planned ones
    bytes_pushed: int = 0
    prefix: str = ""  # hash of the prompt's first block
    checksum: str = ""  # of the planned content: reasoning, text, calls
    ended: str = ""  # whole | fin | rst | peer | broken; "" while it runs
    is_answer: bool = False
    redirected: bool = False  # somebody followed a `redirect`

    @property
    def is_billed(self) -> bool:
        """Generation began, or a whole answer was given."""
        return self.is_answer and (self.output_tokens > 0 or self.ended == "whole")


class Bill(Struct, frozen=True):
    """The sum of the billed attempts of one request."""

    attempts: int = 0  # all of them, billed or not
    billed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0


def bill(records: Iterable[Record]) -> Bill:
    every = list(records)
    paid = [record for record in every if record.is_billed]
    return Bill(
        attempts=len(every),
        billed=len(paid),
        prompt_tokens=sum(record.prompt_tokens for record in paid),
        cached_tokens=sum(record.cached_tokens for record in paid),
        cache_write_tokens=sum(record.cache_write_tokens for record in paid),
        output_tokens=sum(record.output_tokens for record in paid),
    )
