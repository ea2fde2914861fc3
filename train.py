"""Train a Stable Diffusion model without a browser; with no arguments it prints how to start."""

from ed2.app.command import main
from ed2.terminal import exit_with

if __name__ == "__main__":
    exit_with(main)
