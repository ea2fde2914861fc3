"""`./launch.sh COMMAND` or `python -m ed2 COMMAND`: what is done with models and runs besides training."""

import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

if not __package__:  # started by its path, as the launcher does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ed2.app.model_commands import CONVERT
from ed2.errors import Problem, SettingsError, printable
from ed2.terminal import LAUNCHER, exit_with

OTHERS = f"""
{LAUNCHER} download NAME [TARGET]     download a public model, after a yes
{LAUNCHER} models                     list the models on this computer
{LAUNCHER} queue                      list runs that wait, add to them, and train them one after another
{LAUNCHER} report RUN                 write a report of a run into its folder
{LAUNCHER} cache                      show the caches of latents and captions, or remove what is old
{LAUNCHER} doctor                     try what training needs on this computer
{LAUNCHER} extract-lora BASE MODEL TARGET   write what training changed as a LoRA
{LAUNCHER} merge BASE LORA TARGET           add a LoRA to a model"""


COMMANDS = {
    "cache": "ed2.app.caching.command:COMMAND.run",
    "doctor": "ed2.app.doctor:COMMAND.run",
    "download": "ed2.app.hub.command:COMMAND.run",
    "models": "ed2.app.model_commands:MODELS.run",
    "queue": "ed2.app.queue.command:main",
    "report": "ed2.ui.report:COMMAND.run",
    "extract-lora": "ed2.app.model_commands:EXTRACT.run",
    "merge": "ed2.app.model_commands:MERGE.run",
}
"""The other commands, each with the function that gets the rest of the command line."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 1 failed, 2 wrong command line."""
    command, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if command == "convert":
        return CONVERT.run(rest)
    if command in COMMANDS:
        return int(resolve_name(COMMANDS[command])(rest))
    if command in ("-h", "--help"):
        sys.stdout.write(f"{CONVERT.use} {CONVERT.help}\n{OTHERS}\n")
        return 0
    fix = f"Usage: {CONVERT.use}. Other commands: {', '.join(COMMANDS)}"
    error = SettingsError("Invalid command line:", [Problem(None, f"unknown command {printable(command)!r}.", fix)])
    sys.stderr.write(f"{error}\n")
    return error.exit_code


if __name__ == "__main__":
    exit_with(main)
