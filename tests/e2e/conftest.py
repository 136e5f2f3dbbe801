"""Fixtures of the outside tests: simulated providers on real sockets, and `waypost serve` as a process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e_kit import Serving

from waypost.sim.provider import Simulator

Serve = Callable[..., Serving]


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(seed=7).run_in_thread() as simulator:
        yield simulator


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start `waypost serve`; all of them are gone when the test ends."""
    with ExitStack() as stack:
        count = iter(range(100))

        def start(config: str | None, *arguments: str, **how: object) -> Serving:
            directory = tmp_path / f"serve{next(count)}"
            return stack.enter_context(Serving(config, directory, *arguments, **how))  # type: ignore[arg-type]

        yield start
