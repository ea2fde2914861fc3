"""The command line: one flag a setting, made from the schema."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ed2.errors import Problem, printable
from ed2.settings.checks import unknown_setting
from ed2.settings.fields import FieldSpec, fields, groups
from ed2.settings.files import TRAIN_COMMAND, absolute_paths
from ed2.settings.legacy import LEGACY_FLAGS

SWITCH_WORDS = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
MAX_CARD_GB = 1024
MAX_DIGITS = 9
QUOTES = "Put a value with blanks in quotes."
TEST_STEPS = 8
"""Steps of the resume test where no number is given."""
USAGE = f"{TRAIN_COMMAND} [--config FILE] [--name value ...]"


@dataclass(frozen=True)
class CommandLine:
    """What the user typed, as far as it can be read; values are converted, not yet checked."""

    config: Path | None
    check: bool
    suggest: bool
    as_json: bool
    vram_gb: float | None
    help: bool
    values: dict[str, object]
    test_steps: int | None = None
    """Steps of the resume test; None where none is asked for."""
    problems: tuple[Problem, ...] = ()
    """Flags that do not exist (with the nearest one), that lack their value, or have one that they do not take."""


def parse(argv: Sequence[str]) -> CommandLine:
    """Read the command line; relative paths count from the current folder. What is wrong is among its `problems`."""
    known, unknown, problems = _parsed(_parser(), list(argv))
    problems += _unknown_flags(unknown)
    given = {name: value for name, value in vars(known).items() if name in fields()}
    values = {name: _converted(fields()[name], value) for name, value in given.items()}
    values |= {name: _legacy_value(value) for name, value in vars(known).items() if name in LEGACY_FLAGS}
    return CommandLine(
        config=Path(known.config).absolute() if known.config else None,
        check=known.check,
        suggest=known.suggest,
        as_json=known.json,
        vram_gb=_card_size(known.vram_gb, problems),
        help=known.help,
        values=absolute_paths(values, Path.cwd()),
        test_steps=_test_steps(known.test_resume, problems),
        problems=tuple(problems),
    )


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str], list[Problem]]:
    """What argparse makes of the command line, what it does not know, and what it refuses: it stops at the first."""
    try:
        known, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        flag = (error.argument_name or "").partition("/")[0]
        bare = next((n for n, text in enumerate(argv) if text == flag and not _is_value(argv[n + 1 : n + 2])), None)
        if bare is None:
            problem = Problem(flag, "it takes no value.", f"Give {flag} alone, or leave it out.")
            rest = [text for text in argv if not text.startswith(f"{flag}=")]
        else:
            problem, rest = _without_value(flag), argv[:bare] + argv[bare + 1 :]
        known, unknown, problems = _parsed(parser, rest if rest != argv else [])
        return known, unknown, [problem, *problems]
    return known, unknown, []


def _is_value(text: list[str]) -> bool:
    return bool(text) and not text[0].startswith("-")


def _without_value(flag: str) -> Problem:
    spec = fields().get(flag.removeprefix("--"))
    own = {"--config": "a settings file", "--vram_gb": "the size of a card in GB"}
    needed = spec.type_name if spec else own.get(flag, "one")
    return Problem(flag, "its value is missing.", f"It takes {needed}.")


def _card_size(text: str | None, problems: list[Problem]) -> float | None:
    if text is None:
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if 1 <= size <= MAX_CARD_GB:
        return size
    problems.append(Problem("--vram_gb", f"{text} is no size of a card.", "Give its memory in GB, such as 12."))
    return None


def help_text() -> str:
    """Every flag with its help, by group."""
    return _parser().format_help()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=TRAIN_COMMAND,
        usage=USAGE,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=110),
    )
    actions = parser.add_argument_group("What to do")
    actions.add_argument("--config", metavar="FILE", default=None, help="a settings file; flags win over it")
    actions.add_argument("--check", action="store_true", default=False, help="say what the run would do, and stop")
    actions.add_argument("--suggest", action="store_true", default=False, help="settings to change so that it fits")
    actions.add_argument("--vram_gb", metavar="GB", default=None, help="with these two: plan for a card of this size")
    actions.add_argument("--json", action="store_true", default=False, help="with these two: as one JSON object")
    actions.add_argument(
        "--test_resume",
        metavar="STEPS",
        nargs="?",
        const=str(TEST_STEPS),
        default=None,
        help=f"see on these settings and images whether a killed run goes on to the same bytes [{TEST_STEPS} steps]",
    )
    actions.add_argument(
        "--help", "-h", action="store_true", default=False, help="this page; --no-NAME turns a switch off"
    )
    for group, model in groups().items():
        section = parser.add_argument_group((model.__doc__ or group).strip())
        for spec in fields().values():
            if spec.group == group:
                _add_flag(section, spec)
    for name in LEGACY_FLAGS:  # of the original: read as other settings, or told to have no effect
        if name not in fields():
            parser.add_argument(f"--{name}", nargs="*", help=argparse.SUPPRESS)
    return parser


def _test_steps(text: str | None, problems: list[Problem]) -> int | None:
    if text is None:
        return None
    if text.isdecimal() and len(text) < MAX_DIGITS and int(text) >= 2:
        return int(text)
    fix = "It takes a number of steps, at least 2."
    problems.append(Problem("--test_resume", f"{printable(text)!r} is not allowed.", fix))
    return None


def _legacy_value(given: list[str]) -> object:
    """Return what a flag of the original was given, as a JSON file would hold it."""
    if len(given) != 1:
        return given or True
    text = given[0]
    return SWITCH_WORDS[text.lower()] if text.lower() in ("true", "false") else int(text) if text.isdigit() else text


def _add_flag(section: argparse._ArgumentGroup, spec: FieldSpec) -> None:
    text = f"{spec.help} [{_default_text(spec)}]".replace("%", "%%")
    flag = f"--{spec.name}"
    if spec.kind is bool:
        section.add_argument(flag, nargs="?", const="true", metavar="true|false", help=text)
        if not spec.is_plain_switch:
            section.add_argument(
                f"--no-{spec.name}", dest=spec.name, action="store_const", const="false", help=argparse.SUPPRESS
            )
    elif spec.many:
        section.add_argument(flag, nargs="+", action="extend", metavar="PATH" if spec.is_path else "NUMBER", help=text)
    else:
        choices = "|".join(map(str, spec.choices)) if 0 < len(spec.choices) <= 5 else None
        section.add_argument(
            flag, metavar=choices or ("PATH" if spec.is_path else spec.kind.__name__.upper()), help=text
        )


def _default_text(spec: FieldSpec) -> str:
    if spec.kind is bool:
        return "on" if spec.default else "off"
    if spec.many and spec.default:
        return " ".join(map(str, spec.default))
    return "empty" if spec.default in (None, "") else str(spec.default)


def _converted(spec: FieldSpec, value: str | list[str]) -> object:
    """The text of a flag as its type; what cannot be converted stays text, for the checks to refuse."""
    if isinstance(value, list):
        items = [_converted(replace(spec, many=False), item) for item in value]
        return None if items == [None] else items
    if spec.kind is str and not (spec.optional and value in ("", "none")):
        return value
    if spec.optional and value.lower() in ("", "none", "null"):
        return None
    if spec.kind is bool:
        return SWITCH_WORDS.get(value.lower(), value)
    try:
        return spec.kind(value)
    except ValueError:
        return value


def _unknown_flags(texts: Sequence[str]) -> list[Problem]:
    """A problem for each flag that nobody knows, without the values that follow it, and for each stray value."""
    problems, follows_flag = [], False
    for text in texts:
        if text.startswith("--"):
            follows_flag = "=" not in text
            problems.append(_unknown_flag(text))
        elif text.startswith("-") or not follows_flag:
            fix = "A value that begins with - is given as --name=VALUE." if text.startswith("-") else QUOTES
            problems.append(Problem(None, f"{printable(text)!r} belongs to no flag.", fix))
    return problems


def _unknown_flag(text: str) -> Problem:
    problem = unknown_setting(text[2:].split("=")[0].removeprefix("no-"))
    fix = problem.fix.replace("mean ", "mean --") if problem.fix else f"{TRAIN_COMMAND} --help lists all."
    return Problem(printable(text.split("=")[0]), "there is no such flag.", fix)
