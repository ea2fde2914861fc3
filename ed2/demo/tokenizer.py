"""Makes the demo's small CLIP tokenizer: all bytes, CLIP's first merges, and those for a list of words."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from ed2.demo.models import MAX_TOKENS
from ed2.demo.shapes import COLOURS, SHAPES

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
NUM_CLIP_MERGES = 48894
NUM_FIRST_MERGES = 1000
OTHER_WORDS = (
    "a an the on of in with and background picture photo drawing small big large left right top bottom middle center "
    "two three cat dog man woman house tree flower car boat sun moon star bird fish face toy robot monster creature "
    "jumping sitting standing running walking waving flying happy sad side front view style painting sketch icon logo "
    "sign letter light dark bright grey violet turquoise shape object character portrait close up white"
).split()

Merge = tuple[str, str]


def byte_letters() -> list[str]:
    """Return the printable character for each byte, in CLIP's order.

    Source: Radford et al. 2019, the byte-level encoding of GPT-2, which CLIP uses too.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = sorted(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def read_clip_merges(merges_path: Path) -> list[Merge]:
    """Read the merges of CLIP's gzipped vocabulary file (in the package open_clip_torch)."""
    with gzip.open(merges_path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    pairs = [line.split() for line in lines[1 : NUM_CLIP_MERGES + 1]]
    return [(first, second) for first, second in pairs]


def merges_for_word(word: str, ranks: dict[Merge, int]) -> set[int]:
    """Return the ranks of the merges that apply to the word."""
    pieces, used = [*word[:-1], word[-1] + "</w>"], set()
    while len(pieces) > 1:
        known = [(ranks[pair], index) for index, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not known:
            break
        rank, index = min(known)
        used.add(rank)
        pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]
    return used


def choose_merges(clip_merges: list[Merge]) -> list[Merge]:
    """Return the merges to keep, in CLIP's order."""
    ranks = {pair: rank for rank, pair in enumerate(clip_merges)}
    kept = set(range(NUM_FIRST_MERGES))
    for word in {*COLOURS, *SHAPES, *OTHER_WORDS}:
        kept |= merges_for_word(word, ranks)
    return [clip_merges[rank] for rank in sorted(kept)]


def write_tokenizer(merges: list[Merge], target_dir: Path) -> None:
    """Write the tokenizer's files in the Stable Diffusion 1 layout, and tokenizer.json beside them."""
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), BOS, EOS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    target_dir.mkdir(parents=True, exist_ok=True)
    vocab_path, merges_path = target_dir / "vocab.json", target_dir / "merges.txt"
    vocab_path.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    merges_path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "do_lower_case": True, **special}
    for name, content in (("special_tokens_map.json", special), ("tokenizer_config.json", config)):
        (target_dir / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(target_dir)
    tokenizer.backend_tokenizer.save(str(target_dir / "tokenizer.json"), pretty=False)


def build_tokenizer(clip_merges_path: Path, target_dir: Path) -> None:
    """Make the small tokenizer from CLIP's merges."""
    write_tokenizer(choose_merges(read_clip_merges(clip_merges_path)), target_dir)
