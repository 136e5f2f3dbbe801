import random
from pathlib import Path

import kill9_serve
import pytest


def test_a_killed_gateway_has_booked_every_answer_that_a_caller_holds(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    figures = kill9_serve.prove(2, seed=seed, directory=tmp_path)
    if not figures.is_proof:
        pytest.fail(f"seed {seed}: {figures}")
