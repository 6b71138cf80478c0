import pytest

from tests.unit.agent.scripted import Agent


@pytest.fixture
def agent() -> Agent:
    return Agent()
