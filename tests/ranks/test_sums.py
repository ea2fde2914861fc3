"""Sums over real processes that add up by gloo."""

import os
import socket
import subprocess
import sys

from ed2.settings.files import PROGRAM_DIR

SIZE = 3
PROGRAM = """
import torch
from ed2.ranks.place import RankPlace
from ed2.ranks.sums import Sums, open_store
place = RankPlace.of()
sums = Sums(open_store(), place, torch.device("cpu"))

def numbers(rank):
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(shape, generator=generator).to(dtype) for shape, dtype in SHAPES]

SHAPES = [((5, 7), torch.float32), ((3,), torch.bfloat16), ((40, 40), torch.float32), ((0,), torch.float32)]
OWNERS = [0, 2, 2, 1]
whole, own = numbers(place.rank), numbers(place.rank)
sums.add_up(whole)
by_owner = {rank: [own[i] for i, owner in enumerate(OWNERS) if owner == rank] for rank in range(place.size)}
sums.add_up_for(by_owner)
expected = [sum(numbers(rank)[i].float() for rank in range(place.size)) for i in range(len(SHAPES))]
for i, owner in enumerate(OWNERS):
    assert torch.allclose(whole[i].float(), expected[i], rtol=1e-2), i
    if owner == place.rank:
        assert torch.equal(own[i], whole[i]), i
sums.hand_out(by_owner)
assert all(map(torch.equal, own, whole))
sums.close()
"""


def test_a_process_gets_the_sums_of_what_it_owns_as_if_all_got_all() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = []
    for rank in range(SIZE):
        environment = {**os.environ, **place, "RANK": str(rank), "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, "-c", PROGRAM]
        processes.append(subprocess.Popen(argv, cwd=PROGRAM_DIR, env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * SIZE, said
