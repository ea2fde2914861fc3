"""Open the trainer in a browser."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ed2.app.libraries import require_temporary_folder
from ed2.errors import Ed2Error
from ed2.garbage import without_collection
from ed2.terminal import exit_with


def main(argv: Sequence[str]) -> int:
    """Serve the page, where its libraries can be read."""
    try:
        require_temporary_folder()
    except Ed2Error as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    with without_collection(), without_type_stubs():  # which would take a third of the time
        from ed2.ui.command import main as serve

    return serve(argv)


@contextmanager
def without_type_stubs() -> Iterator[None]:
    """Keep Gradio, while it is imported, from parsing its sources to write type stubs, which are for editors of code.

    It does so at every import (`gradio/component_meta.py`), and goes without where a class has no file.
    """
    find_file = inspect.getfile

    def find_others(object: Any) -> str:
        if isinstance(object, type) and object.__module__.startswith("gradio."):
            raise OSError("no file wanted")
        return find_file(object)

    inspect.getfile = find_others
    try:
        yield
    finally:
        inspect.getfile = find_file


if __name__ == "__main__":
    exit_with(main)
