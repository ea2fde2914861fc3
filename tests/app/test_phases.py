"""Which phase may follow which, and which command is legal in which."""

import pytest

from ed2.app.snapshot import ACTIVE, AT_REST, COMMANDS, next_state, require_legal
from ed2.errors import RefusedError


def test_a_stopping_run_only_ends() -> None:
    assert all(next_state("stopping", phase) is None for phase in ("preparing", "training", "sampling", "paused"))
    assert [next_state("stopping", phase) for phase in ("done", "stopped", "failed")] == ["done", "stopped", "failed"]


def test_an_ended_run_can_no_longer_be_stopped() -> None:
    assert all(next_state(state, "stopping") is None for state in AT_REST)
    assert next_state("done", "preparing") == "preparing"


def test_validating_shows_as_training_and_caching_as_preparing_which_can_be_paused() -> None:
    assert next_state("training", "validating") == "training"
    assert next_state("preparing", "caching") == next_state("paused", "caching") == "preparing"
    require_legal("pause", "preparing")


def test_every_state_is_at_rest_or_active_and_every_command_is_refused_somewhere() -> None:
    assert not ACTIVE & AT_REST
    for command, legal in COMMANDS.items():
        for state in ACTIVE | AT_REST:
            if state in legal:
                require_legal(command, state)
            else:
                with pytest.raises(RefusedError):
                    require_legal(command, state)
