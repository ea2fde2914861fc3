"""Train a Stable Diffusion model without a browser; with no arguments it prints how to start."""

import sys

from ed2.app.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
