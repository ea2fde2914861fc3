"""What the processes of a run say to each other."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from ed2.app.command import main
from ed2.errors import RankError, RunLeft, SettingsError, UpdateFailedError
from ed2.ranks.group import Follower, Leader
from ed2.ranks.place import RankPlace
from ed2.ranks.wire import RankWire, Reception
from tests.ranks.threads import connected, in_each


def test_all_hear_what_each_says_in_the_order_of_their_ranks() -> None:
    def work(ranks: Leader | Follower) -> list[object]:
        return [ranks.exchange(f"place {count}", {"rank": ranks.rank, "count": count}) for count in range(5)]

    expected = [[{"rank": rank, "count": count} for rank in range(3)] for count in range(5)]
    assert in_each(3, work) == [expected] * 3


def test_when_rank_0_leaves_a_run_the_others_do_and_nothing_they_had_said_counts_in_the_next() -> None:
    with connected(3) as (leader, followers), ThreadPoolExecutor(2) as pool:

        def follow(follower: Follower) -> object:
            assert follower.next_run() == {"number": 1}
            with pytest.raises(RunLeft):
                follower.exchange("never answered", {})
            assert follower.next_run() == {"number": 2}
            said = follower.exchange("second run", {"rank": follower.rank})
            follower.wait_until_left()
            ended = follower.next_run()
            follower.close()
            return said, ended

        results = [pool.submit(follow, follower) for follower in followers]
        with pytest.raises(ValueError), leader.leading(lambda: {"number": 1}):
            raise ValueError
        with leader.leading(lambda: {"number": 2}):
            said = leader.exchange("second run", {"rank": 0})
        leader.close()
        assert said == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert [result.result(timeout=60) for result in results] == [(said, None)] * 2


@pytest.mark.parametrize(
    "error", [ValueError("it broke"), UpdateFailedError("Updating the weights failed", "it broke.")]
)
def test_a_failure_of_another_process_reaches_rank_0_with_its_reason(error: Exception) -> None:
    with connected(3) as (leader, followers), ThreadPoolExecutor(2) as pool:

        def fail(follower: Follower) -> None:
            follower.next_run()
            follower.fail(error)

        def wait(follower: Follower) -> None:
            follower.next_run()
            with pytest.raises(RunLeft):
                follower.exchange("step", {})

        results = [pool.submit(fail, followers[0]), pool.submit(wait, followers[1])]
        kind = UpdateFailedError if isinstance(error, UpdateFailedError) else RankError
        with pytest.raises(kind, match=r"Process 1 failed: .*it broke"), leader.leading(lambda: {}):
            leader.exchange("step", {})
        for result in results:
            result.result(timeout=60)


def test_a_process_that_is_gone_is_named_at_once_and_by_the_others_too() -> None:
    with connected(3) as (leader, followers):
        followers[1].close()  # as the system does when a process ends, however it does
        with pytest.raises(RankError, match="process 2 was lost"), leader.leading(lambda: {}):
            leader.exchange("step", {})
        assert not leader.is_whole


def test_a_notice_reaches_rank_0_while_it_waits() -> None:
    heard: list[object] = []

    def work(ranks: Leader | Follower) -> object:
        if isinstance(ranks, Leader):
            ranks.on_notice = heard.append
        else:
            ranks.notify({"warned": f"by {ranks.rank}"})
        return ranks.exchange("step", {})

    in_each(2, work)
    assert heard == [{"warned": "by 1"}]


def test_a_stranger_cannot_take_part_and_does_not_keep_others_from_it() -> None:
    reception = Reception("127.0.0.1")
    address = ("127.0.0.1", reception.invitation.port)
    result: list[Leader] = []

    def gather() -> None:
        result.append(Leader(RankPlace(0, 2, 0, 2), reception.gather(2), None))

    waiting = threading.Thread(target=gather)
    waiting.start()
    with pytest.raises((AuthenticationError, EOFError, OSError)):
        Client(address, authkey=b"guessed")
    with socket.create_connection(address) as silent:
        silent.sendall(b"GET / HTTP/1.0\r\n\r\n")
    follower = Follower(RankPlace(1, 2, 1, 2), RankWire.join(reception.invitation, 1), None)
    waiting.join(60)
    assert result[0].is_whole
    follower.close()  # first: rank 0 waits for it
    result[0].close()


def test_a_run_that_asks_for_other_processes_than_were_started_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], images: Path, sd1: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["--data_root", str(images), "--resume_ckpt", str(sd1), "--num_processes", "2"]) == 2
    assert "num_processes: it is 2, but 1 process was started." in capsys.readouterr().err


def test_the_place_of_a_process_is_read_from_the_environment() -> None:
    assert RankPlace.of({}) == RankPlace.of({"WORLD_SIZE": "1"}) == RankPlace()
    names = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    master = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert RankPlace.of({**names, **master}) == RankPlace(3, 4, 1, 2, "10.0.0.1")
    for wrong in ({"RANK": "4"}, {"RANK": "x"}, {"WORLD_SIZE": "0"}, {"MASTER_PORT": ""}, {"LOCAL_RANK": "2"}):
        with pytest.raises(SettingsError):
            RankPlace.of({**names, **master, **wrong})
