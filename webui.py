"""Open the trainer in a browser."""

import sys
from collections.abc import Sequence

from ed2.app.libraries import require_temporary_folder
from ed2.errors import Ed2Error
from ed2.terminal import exit_with


def main(argv: Sequence[str]) -> int:
    """Serve the page, where its libraries can be read."""
    try:
        require_temporary_folder()
    except Ed2Error as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    from ed2.ui.command import main as serve

    return serve(argv)


if __name__ == "__main__":
    exit_with(main)
