import importlib.util
import random
from pathlib import Path

import pytest


def test_every_acknowledged_row_survives_kill_9_exactly_once(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("kill9", Path(__file__).with_name("kill9.py"))
    assert spec is not None
    assert spec.loader is not None
    kill9 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill9)
    seed = random.SystemRandom().randrange(10**6)
    figures = kill9.prove(5, seed=seed, directory=tmp_path)
    if not figures.is_proof:
        pytest.fail(f"seed {seed}: {figures}")
