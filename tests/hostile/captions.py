"""More than 40 captions and sidecars that are damaged, strange or made to harm, each with what is to come of it."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

TEXT = "ein Kätzchen, größer – als gedacht"
FROM_NAME = "cat"
"""The caption of an image whose file gives none: its name up to the first underscore."""


@dataclass(frozen=True)
class Caption:
    """A file beside an image.

    Attributes:
        name: what the case is called.
        extension: txt, caption or yaml.
        expected: the caption; None where only something that can be written and is not too long is expected.
        note: the kind of the note that tells of it, if any.
    """

    name: str
    content: bytes
    expected: str | None
    note: str = ""
    extension: str = "txt"


def all_captions() -> Iterator[Caption]:
    """Every case."""
    yield from _encodings()
    yield from _strange_texts()
    yield from _yaml_files()


def _encodings() -> Iterator[Caption]:
    yield Caption("utf-8", TEXT.encode(), TEXT)
    yield Caption("utf-8-mark", TEXT.encode("utf-8-sig"), TEXT)
    yield Caption("utf-8-two-marks", codecs.BOM_UTF8 * 2 + TEXT.encode(), TEXT)
    yield Caption("utf-16", TEXT.encode("utf-16"), TEXT)
    yield Caption("utf-16-be-mark", codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), TEXT)
    yield Caption("utf-16-le-no-mark", "a red cat".encode("utf-16-le"), "a red cat")
    yield Caption("utf-16-be-no-mark", "a red cat".encode("utf-16-be"), "a red cat")
    yield Caption("utf-16-odd", b"\xff\xfea\0b\0c", "ab")
    yield Caption("utf-16-surrogates", b"\xff\xfe\x00\xd8\x00\xd8a\0", None)
    yield Caption("utf-32", "a red cat".encode("utf-32"), None)
    yield Caption("latin-1", "caf\xe9".encode("latin-1"), "café", "guessed")
    yield Caption("cp1252", "café – crème".encode("cp1252"), "café – crème", "guessed")
    yield Caption("undefined-in-cp1252", b"caf\xe9 \x81", None, "guessed")
    yield Caption("shift-jis", "猫".encode("shift-jis"), None, "guessed")
    yield Caption("surrogate-in-utf-8", b"a \xed\xa0\x80 cat", None, "guessed")
    yield Caption("overlong-utf-8", b"a \xc0\xaf cat", None, "guessed")
    yield Caption("cut-utf-8", "Kätz".encode()[:2], None, "guessed")
    yield Caption("all-bytes", bytes(range(256)), None)


def _strange_texts() -> Iterator[Caption]:
    yield Caption("empty", b"", FROM_NAME, "file name")
    yield Caption("blanks", b" \t\r\n \n", FROM_NAME, "file name")
    yield Caption("only-mark", codecs.BOM_UTF8, FROM_NAME, "file name")
    yield Caption("only-nul", bytes(10), FROM_NAME, "file name")
    yield Caption("only-commas", b",,,,", FROM_NAME, "file name")
    yield Caption("nul-inside", b"a \0red cat", "a red cat")
    yield Caption("crlf", b"a red cat\r\non a mat\r\n", "a red cat on a mat")
    yield Caption("old-mac", b"a red cat\ron a mat", "a red cat on a mat")
    yield Caption("ten-megabytes", b"a red cat " * (1 << 20), None, "cut")
    yield Caption("ten-megabytes-one-word", b"a" * (10 << 20), None, "cut")
    yield Caption("ten-megabytes-utf-16", ("a cat " * (1 << 20)).encode("utf-16"), None, "cut")
    yield Caption("many-tags", b"cat" + b"".join(b", tag %d" % number for number in range(5000)), None)
    yield Caption("page", b"<!DOCTYPE html><html><body>404</body></html>", None)
    yield Caption("terminal-codes", b"a \x1b[31mred\x1b[0m cat", None)
    yield Caption("right-to-left", "a \u202ecat".encode(), None)
    yield Caption("emoji", "a 🐈‍⬛ cat".encode(), "a 🐈‍⬛ cat")
    yield Caption("image", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, None)
    yield Caption(
        "formats", b"{0.__class__} %s %(x)s ${HOME} $(rm -rf .)", "{0.__class__} %s %(x)s ${HOME} $(rm -rf .)"
    )


def _yaml_files() -> Iterator[Caption]:
    bomb = b"a: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40))
    files = {
        "good": (b"main_prompt: a red cat\n", "a red cat", ""),
        "bomb-as-number": (bomb + b"multiply: *a39\n", FROM_NAME, "sidecar"),
        "bomb-as-tags": (bomb + b"tags: *a39\n", FROM_NAME, "sidecar"),
        "bomb-as-prompt": (bomb + b"main_prompt: *a39\n", FROM_NAME, "sidecar"),
        "bomb-as-key": (bomb + b"? *a39\n: 1\n", FROM_NAME, "sidecar"),
        "itself": (b"tags: &a [*a]\n", FROM_NAME, "sidecar"),
        "itself-as-mapping": (b"caption: &a {caption: *a}\n", FROM_NAME, "sidecar"),
        "many-references": (b"a: &a x\nb: [" + b"*a, " * 200 + b"]\n", FROM_NAME, "sidecar"),
        "deep-lists": (b"tags: " + b"[" * 20_000, FROM_NAME, "sidecar"),
        "deep-whole": (b"tags: " + b"[" * 900 + b"]" * 900, FROM_NAME, "sidecar"),
        "deep-blocks": (b"\n".join(b" " * n + b"a:" for n in range(300)), FROM_NAME, "sidecar"),
        "code": (b"!!python/object/apply:os.system ['touch pwned']\n", FROM_NAME, "sidecar"),
        "code-inside": (b"main_prompt: !!python/object/apply:os.system ['touch pwned']\n", None, ""),
        "cut": (b"main_prompt: 'a red", FROM_NAME, "sidecar"),
        "tabs": (b"main_prompt:\n\t- a\n", FROM_NAME, "sidecar"),
        "nul": (b"main_prompt: a\0cat\n", None, ""),
        "surrogate": (b'main_prompt: "a \\ud800 cat"\n', None, ""),
        "control": (b'main_prompt: "a \\x01\\u2028 cat"\n', None, ""),
        "two-documents": (b"main_prompt: a\n---\nmain_prompt: b\n", FROM_NAME, "sidecar"),
        "list": (b"- a\n- b\n", FROM_NAME, "sidecar"),
        "scalar": (b"a red cat\n", FROM_NAME, "sidecar"),
        "too-large": (b"main_prompt: a\n" + b"# padding\n" * 10_000, FROM_NAME, "sidecar"),
        "infinite": (b"main_prompt: a cat\nmultiply: .inf\nflip_p: .nan\n", "a cat", "sidecar"),
        "huge-number": (b"main_prompt: a cat\nmultiply: 1" + b"0" * 5000 + b"\n", "a cat", "sidecar"),
        "list-as-key": (b"? [a, b]\n: c\nmain_prompt: a cat\n", None, "sidecar"),
        "twice": (b"main_prompt: a cat\nmain_prompt: a dog\n", None, ""),
        "merge": (b"a: &a {main_prompt: a cat}\n<<: *a\n", None, "sidecar"),
        "many-names": (b"".join(b"n%d: 1\n" % n for n in range(5000)) + b"main_prompt: a cat\n", "a cat", "sidecar"),
        "long-name": (b"main_prompt: a cat\n? " + b"x" * 60_000 + b"\n: 1\n", "a cat", "sidecar"),
        "empty": (b"", FROM_NAME, ""),
        "null": (b"~\n", FROM_NAME, ""),
    }
    for name, (content, expected, note) in files.items():
        yield Caption(f"yaml-{name}", content, expected, note, "yaml")
