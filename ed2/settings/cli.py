"""The command line: one flag per setting, made from the schema."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ed2.errors import Problem, printable
from ed2.settings.checks import ON_END, unknown_setting
from ed2.settings.fields import FieldSpec, fields, groups
from ed2.settings.files import TRAIN_COMMAND, absolute_paths, typed_path
from ed2.settings.legacy import LEGACY_FLAGS
from ed2.text import SWITCH_WORDS

MAX_CARD_GB = 1024
MAX_DIGITS = 9
TEST_STEPS = 8
"""Default number of steps of the resume test."""
USAGE = f"{TRAIN_COMMAND} [--config FILE] [--name value ...]"


@dataclass(frozen=True)
class CommandLine:
    """The parsed command line; values are converted, not yet checked."""

    config: Path | None
    check: bool
    suggest: bool
    as_json: bool
    vram_gb: float | None
    help: bool
    values: dict[str, object]
    test_steps: int | None = None
    """Steps of the resume test; None without one."""
    problems: tuple[Problem, ...] = ()
    """Unknown flags (with the nearest one), and flags whose value is missing or wrong."""
    on_end: str | None = field(default=None, repr=False)
    """A command or an address that is told how the run ended; no setting, so no file can hold it."""

    @property
    def trains(self) -> bool:
        """Whether it starts a run."""
        return not (self.check or self.suggest or self.help or self.test_steps)


def parse(argv: Sequence[str]) -> CommandLine:
    """Parse the command line; relative paths count from the current folder. Errors are listed in `problems`."""
    known, unknown, problems = _parse_known(_parser(), list(argv))
    problems += _unknown_flags(unknown)
    values: dict[str, object] = {}
    for name, value in vars(known).items():
        if name in LEGACY_FLAGS and name not in fields():
            values[name] = _legacy_value(value)
        elif name in fields():
            values[name] = _converted(fields()[name], value)
    return CommandLine(
        config=typed_path(known.config) if known.config else None,
        check=known.check,
        suggest=known.suggest,
        as_json=known.json,
        vram_gb=_card_size(known.vram_gb, problems),
        help=known.help,
        values=absolute_paths(values, Path.cwd()),
        test_steps=_test_steps(known.test_resume, problems),
        problems=tuple(problems),
        on_end=known.on_end,
    )


def _parse_known(
    parser: argparse.ArgumentParser, argv: list[str]
) -> tuple[argparse.Namespace, list[str], list[Problem]]:
    """What argparse reads, the rest, and what it rejects: it stops at each error, so parse again without that flag."""
    try:
        known, unknown = parser.parse_known_args(argv)
        return known, unknown, []
    except argparse.ArgumentError as error:
        flag = (error.argument_name or "").partition("/")[0]
    place = _place_without_value(argv, flag)
    if place is None:
        problem = Problem(flag, "it takes no value.", f"Use {flag} alone, or leave it out.")
        rest = [text for text in argv if not text.startswith(f"{flag}=")]
    else:
        problem, rest = _missing_value(flag), argv[:place] + argv[place + 1 :]
    known, unknown, problems = _parse_known(parser, rest if rest != argv else [])
    return known, unknown, [problem, *problems]


def _place_without_value(argv: list[str], flag: str) -> int | None:
    """The position of `flag` without a value after it."""
    for place, text in enumerate(argv):
        following = argv[place + 1 : place + 2]
        if text == flag and (not following or following[0].startswith("-")):
            return place
    return None


def _missing_value(flag: str) -> Problem:
    own = {
        "--config": "a settings file",
        "--vram_gb": "the memory of a GPU in GB",
        f"--{ON_END}": "a command or an address",
    }
    spec = fields().get(flag.removeprefix("--"))
    return Problem(flag, "the value is missing.", f"Give {spec.type_name if spec else own.get(flag, 'one')}.")


def _card_size(text: str | None, problems: list[Problem]) -> float | None:
    if text is None:
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if 1 <= size <= MAX_CARD_GB:
        return size
    problems.append(Problem("--vram_gb", f"{text} is not a valid size.", "Give a GPU's memory in GB, such as 12."))
    return None


def help_text() -> str:
    """Every flag with its help, grouped."""
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
    actions.add_argument("--config", metavar="FILE", default=None, help="settings file; flags override it")
    actions.add_argument("--check", action="store_true", default=False, help="show what the run would do")
    actions.add_argument("--suggest", action="store_true", default=False, help="suggest settings that fit the GPU")
    actions.add_argument("--vram_gb", metavar="GB", default=None, help="plan for a GPU of this size (with these two)")
    actions.add_argument("--json", action="store_true", default=False, help="print one JSON object (with these two)")
    actions.add_argument(
        "--test_resume",
        metavar="STEPS",
        nargs="?",
        const=str(TEST_STEPS),
        default=None,
        help=f"test whether a killed run resumes to identical bytes [{TEST_STEPS} steps]",
    )
    text = "command or http(s) address that is told how the run ended"
    actions.add_argument(f"--{ON_END}", metavar="COMMAND", default=None, help=text)
    actions.add_argument(
        "--help", "-h", action="store_true", default=False, help="show this help; --no-NAME turns a switch off"
    )
    for group, model in groups().items():
        section = parser.add_argument_group((model.__doc__ or group).strip())
        for spec in fields().values():
            if spec.group == group:
                _add_flag(section, spec)
    for name in LEGACY_FLAGS:  # of EveryDream 2: read as other settings, or reported as having no effect
        if name not in fields():
            parser.add_argument(f"--{name}", nargs="*", help=argparse.SUPPRESS)
    return parser


def _test_steps(text: str | None, problems: list[Problem]) -> int | None:
    if text is None:
        return None
    if text.isdecimal() and len(text) < MAX_DIGITS and int(text) >= 2:
        return int(text)
    fix = "Use a number of steps, at least 2."
    problems.append(Problem("--test_resume", f"{printable(text)!r} is not allowed.", fix))
    return None


def _legacy_value(given: list[str]) -> object:
    """The value of a flag of EveryDream 2, as a JSON file would hold it."""
    if len(given) != 1:
        return given or True
    text = given[0]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.isdigit():
        return int(text)
    return text


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
        section.add_argument(flag, nargs="+", action="extend", metavar=_metavar(spec), help=text)
    else:
        section.add_argument(flag, metavar=_metavar(spec), help=text)


def _metavar(spec: FieldSpec) -> str:
    if 0 < len(spec.choices) <= 5:
        return "|".join(map(str, spec.choices))
    if spec.is_path:
        return "PATH"
    if spec.many:
        return "NUMBER"
    return spec.kind.__name__.upper()


def _default_text(spec: FieldSpec) -> str:
    if spec.kind is bool and not spec.optional:
        if spec.default:
            return "on"
        return "off"
    if spec.many and spec.default:
        return " ".join(map(str, spec.default))
    if spec.default in (None, ""):
        return "empty"
    return str(spec.default)


def _converted(spec: FieldSpec, value: str | list[str]) -> object:
    """The text of a flag as its type; what cannot be converted stays text, for the checks to reject."""
    if isinstance(value, list):
        items = [_converted(replace(spec, many=False), item) for item in value]
        if items == [None]:
            return None
        return items
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
    """A problem for each unknown flag, without the values that follow it, and for each stray value."""
    problems, follows_flag = [], False
    for text in texts:
        if text.startswith("--"):
            follows_flag = "=" not in text
            problems.append(_unknown_flag(text))
        elif text.startswith("-") or not follows_flag:
            fix = "Put a value that contains spaces in quotes."
            if text.startswith("-"):
                fix = "Write a value that starts with - as --name=VALUE."
            problems.append(Problem(None, f"{printable(text)!r} does not belong to a flag.", fix))
    return problems


def _unknown_flag(text: str) -> Problem:
    problem = unknown_setting(text[2:].split("=")[0].removeprefix("no-"))
    fix = problem.fix.replace("mean ", "mean --") if problem.fix else f"{TRAIN_COMMAND} --help lists all flags."
    return Problem(printable(text.split("=")[0]), "there is no such flag.", fix)
