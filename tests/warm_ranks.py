"""A program that has read the libraries and forks the processes of runs, so that a test need not wait for that.

It takes one request per line, a JSON object, and answers with the exit codes of the processes in a line.
A fork takes only one thread along, so this program may never have a second one.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from ed2.app.libraries import read_libraries

LIMIT_SECONDS = 250


def warm_up() -> None:
    """Import everything that a run needs."""
    read_libraries()
    import torch
    import torch.utils.tensorboard
    from tensorboard.backend.event_processing import event_accumulator  # noqa: F401
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # or its bars start a thread
    import ed2.app.ranks.members
    import ed2.app.run
    import ed2.ranks.group  # noqa: F401


def train(size: int, argv: list[str], faults: dict[str, str], output: str) -> list[int]:
    """Fork the processes of a run, and wait for them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(size):
        process = os.fork()
        if process == 0:
            _run({**place, "RANK": str(rank)}, argv, faults.get(str(rank), ""), output)
        processes.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def _run(place: dict[str, str], argv: list[str], fault: str, output: str) -> None:
    """The whole life of a forked process."""
    code: Any = 1
    try:
        signal.alarm(LIMIT_SECONDS)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.environ.update(place)
        from ed2.app import measured
        from ed2.app.command import main
        from ed2.app.images import scanning
        from tests.faulty_rank import arrange

        scanning.INDEX_FILE, measured.SPEEDS_FILE = Path(f"{output}.index"), Path(f"{output}.speeds")
        arrange(fault)
        code = main(argv)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(train(**json.loads(line))), flush=True)
