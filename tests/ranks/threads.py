"""The processes of a run as threads of this one: real connections, without sums."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ed2.ranks.group import Follower, Leader
from ed2.ranks.place import RankPlace
from ed2.ranks.wire import RankWire, Reception

T = TypeVar("T")


@contextmanager
def connected(size: int) -> Iterator[tuple[Leader, list[Follower]]]:
    """Rank 0 and the others, connected with each other."""
    reception = Reception("127.0.0.1")
    spokes: dict[int, RankWire] = {}

    def join(rank: int) -> None:
        spokes[rank] = RankWire.join(reception.invitation, rank)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(1, size)]
    for thread in threads:
        thread.start()
    leader = Leader(RankPlace(0, size, 0, size), reception.gather(size), None)
    for thread in threads:
        thread.join()
    followers = [Follower(RankPlace(rank, size, rank, size), spokes[rank], None) for rank in range(1, size)]
    try:
        yield leader, followers
    finally:
        closing = threading.Thread(target=leader.close)  # which waits for the others to close their ends
        closing.start()
        for follower in followers:
            follower.close()
        closing.join()


def in_each(size: int, work: "Callable[[Leader | Follower], T]") -> list[T]:
    """What each rank returns of `work`, in a run that rank 0 leads; all of them work at the same time."""
    with connected(size) as (leader, followers), ThreadPoolExecutor(size) as pool:

        def lead() -> T:
            with leader.leading(lambda: {}):
                return work(leader)

        def follow(follower: Follower) -> T:
            assert follower.next_run() == {}
            return work(follower)

        results = [pool.submit(lead), *(pool.submit(follow, follower) for follower in followers)]
        return [result.result(timeout=60) for result in results]
