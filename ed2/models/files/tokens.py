"""Counts the tokens of captions as a model's text encoder will, without PyTorch."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

CONTEXT_LENGTH = 77
"""Tokens that the text encoders of every family read at once, with a start and an end token."""
MAX_TOKENS = CONTEXT_LENGTH - 2
"""Of a chunk of a caption."""
SHIPPED = Path(__file__).parent / "configs" / "tokenizer"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP splits a text into. Source: openai/CLIP, simple_tokenizer.py."""
END = "<|endoftext|>"
MARKS = ("<|startoftext|>", END)


def token_counter(base: Path) -> Callable[[Sequence[str]], list[int]]:
    """What counts the tokens of captions, without start and end tokens, for the base model in a folder or file.

    A model without vocabulary files of its own is taken to use CLIP's.
    """
    try:
        tokenizer = _read(base / "tokenizer")
    except Exception:  # missing, damaged, or of another kind; tokenizers raises plain Exceptions
        tokenizer = _shipped()

    def count(captions: Sequence[str]) -> list[int]:
        return [len(found.ids) for found in tokenizer.encode_batch(list(captions), add_special_tokens=False)]

    return count


@cache
def _shipped() -> Tokenizer:
    return _read(SHIPPED)


def _read(folder: Path) -> Tokenizer:
    vocabulary, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return tokenizer
