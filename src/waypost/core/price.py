"""Price: what tokens cost, in integer nano-dollars. Knows no model and no provider; no float touches an amount.

Prices are nano-dollars per million tokens, so every published price is an integer and every amount an exact fraction over one
million: parts are summed unrounded and rounded once, half up. An unknown price makes the cost unknown, never zero, unless
no token stands against it.
"""

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext

from msgspec import structs

from waypost.core.types import NUSD_PER_USD, Price, Usage

_MTOK = 1_000_000


def cost(usage: Usage, price: Price) -> int | None:
    """Nano-dollars of one attempt's usage; `None` when a price that is needed is unknown.

    Cached reads and cache writes have their own price where the card has one, else the input price. More cached than input
    tokens cannot be (`tokens.plausible` says so); here the surplus is charged at its own price and the fresh part is zero.
    """
    if price.steps:
        price = at(usage.input_tokens, price)
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    fresh = usage.input_tokens - cached - written
    input_price = price.input_nusd_per_mtok
    total = 0
    if fresh > 0:
        if input_price is None:
            return None
        total = fresh * input_price
    if cached:
        rate = price.cached_input_nusd_per_mtok
        rate = input_price if rate is None else rate
        if rate is None:
            return None
        total += cached * rate
    if written:
        rate = price.cache_write_nusd_per_mtok
        rate = input_price if rate is None else rate
        if rate is None:
            return None
        total += written * rate
    if usage.output_tokens:
        rate = price.output_nusd_per_mtok
        if rate is None:
            return None
        total += usage.output_tokens * rate
    return (2 * total + _MTOK) // (2 * _MTOK)


def at(input_tokens: int, price: Price) -> Price:
    """The prices of a request of this length: beyond a step its prices hold for all of the request's tokens."""
    for step in price.steps:
        if input_tokens > step.above_tokens:
            changes = {name: rate for name in step.__struct_fields__[1:] if (rate := getattr(step, name)) is not None}
            price = structs.replace(price, **changes)
    return price


def expected(prompt_tokens: int, output_tokens: int, price: Price) -> int | None:
    """Cost of a call without any cache read: what a prediction says before the call."""
    return cost(Usage(input_tokens=prompt_tokens, output_tokens=output_tokens), price)


def worst_case(prompt_tokens: int, max_output_tokens: int, n: int, price: Price) -> int | None:
    """What a call can cost at most: the whole prompt at the dearest input rate, `n` answers of full length. Rounded up.

    The prompt is charged once for all `n` choices, as providers do; the cache-write premium counts because the provider decides.
    """
    if price.steps:
        price = at(prompt_tokens, price)
    rate, output_rate = price.input_nusd_per_mtok, price.output_nusd_per_mtok
    output = max_output_tokens * n if n > 1 else max_output_tokens
    if (rate is None and prompt_tokens) or (output_rate is None and output):
        return None
    for other in (price.cached_input_nusd_per_mtok, price.cache_write_nusd_per_mtok):
        if other is not None and (rate is None or other > rate):
            rate = other
    return -(-(prompt_tokens * (rate or 0) + output * (output_rate or 0)) // _MTOK)


def usd(nusd: int) -> str:
    """Plain decimal dollars, exact, without exponent: 123_000 -> "0.000123", 0 -> "0"."""
    digits = f"{nusd:010d}" if nusd >= 0 else f"{nusd:011d}"
    return f"{digits[:-9]}.{digits[-9:]}".rstrip("0").rstrip(".")


def parse_usd(amount: float | int | str) -> int:
    """Nano-dollars of an amount as a person or a price list wrote it; beyond nano-dollars rounded half up.

    A float means the decimal it prints as (0.1 is a tenth). Raises ValueError for what is not a finite number, negative amounts
    included: no price, cap or budget is below zero.
    """
    if isinstance(amount, bool):
        raise ValueError(f"not an amount in dollars: {amount!r}")
    try:
        value = Decimal(amount if isinstance(amount, str) else str(amount))
    except InvalidOperation:
        raise ValueError(f"not an amount in dollars: {amount!r}") from None
    if not value.is_finite() or value < 0 or value > 10**12:
        raise ValueError(f"an amount in dollars must be finite, not negative and below 10^12: {amount!r}")
    with localcontext() as context:
        context.prec = max(40, len(value.as_tuple().digits) + 12)
        return int((value * NUSD_PER_USD).to_integral_value(rounding=ROUND_HALF_UP))
