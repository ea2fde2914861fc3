"""Open the trainer in a browser."""

import sys

from ed2.ui.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
