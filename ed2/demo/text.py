"""The demo's text: a small CLIP tokenizer, and a text encoder that knows what captions say before any image.

The tokenizer has all bytes, CLIP's first merges, and those for a list of words. The text encoder is trained to
recognise the shape, colour and background in a caption.
"""

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.demo.models import MAX_TOKENS, TEXT_WIDTH, new_text_encoder, tokenize
from ed2.demo.shapes import COLOURS, SHAPES, caption_and_scene, with_article

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

NUM_CAPTIONS = 6000
NUM_HELD_OUT = 400
UNKNOWN = -100
SEED = 21
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NOUNS = "cat dog man woman house tree flower car boat sun moon bird fish face toy robot monster creature".split()
VERBS = ("", "", "jumping ", "waving ", "standing ", "flying ")


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


def _unknown_thing(rng: random.Random) -> tuple[str, list[int]]:
    """Return a caption of something that no image shows; only its background is labelled."""
    background = rng.choice(list(COLOURS))
    invented = "".join(rng.choices(LETTERS, k=rng.randint(3, 6)))
    noun = rng.choice((invented, rng.choice(NOUNS)))
    caption = f"{with_article(noun)} {rng.choice(VERBS)}on {with_article(background)} background"
    return caption, [UNKNOWN, UNKNOWN, list(COLOURS).index(background)]


def _known_scene(rng: random.Random) -> tuple[str, list[int]]:
    caption, scene = caption_and_scene(rng)
    names = list(COLOURS)
    background = names.index(scene.background) if scene.background in caption.split(scene.shape)[-1] else UNKNOWN
    return caption, [SHAPES.index(scene.shape), names.index(scene.colour), background]


def labelled_captions(seed: int) -> tuple[list[str], torch.Tensor]:
    """Return captions with the indices of their shape, colour and background, (captions, 3), or UNKNOWN."""
    rng = random.Random(seed)
    pairs = [_unknown_thing(rng) if rng.random() < 0.3 else _known_scene(rng) for _ in range(NUM_CAPTIONS)]
    return [caption for caption, _ in pairs], torch.tensor([labels for _, labels in pairs])


def _loss(heads: torch.nn.ModuleList, pooled: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return sum(
        (F.cross_entropy(head(pooled), labels[:, k], ignore_index=UNKNOWN) for k, head in enumerate(heads)),
        start=pooled.new_zeros(()),
    )


@torch.no_grad()
def _accuracy(text_encoder: CLIPTextModel, heads: torch.nn.ModuleList, data: list[torch.Tensor]) -> list[float]:
    token_ids, labels = data
    pooled = text_encoder(token_ids)[0].mean(1)
    right = [(head(pooled).argmax(1) == labels[:, k])[labels[:, k] != UNKNOWN] for k, head in enumerate(heads)]
    return [round(matches.float().mean().item(), 3) for matches in right]


def train_text_encoder(tokenizer: CLIPTokenizer, num_steps: int) -> CLIPTextModel:
    """Return a text encoder from whose mean hidden state linear heads predict shape, colour and background."""
    torch.manual_seed(SEED)
    captions, labels = labelled_captions(SEED)
    token_ids = tokenize(tokenizer, captions)
    num_trained = NUM_CAPTIONS - NUM_HELD_OUT
    text_encoder = new_text_encoder(tokenizer)
    sizes = (len(SHAPES), len(COLOURS), len(COLOURS))
    heads = torch.nn.ModuleList([torch.nn.Linear(TEXT_WIDTH, size) for size in sizes])
    parameters = [*text_encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    for _ in range(num_steps):
        chosen = torch.randint(0, num_trained, (32,))
        loss = _loss(heads, text_encoder(token_ids[chosen])[0].mean(1), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = [token_ids[num_trained:], labels[num_trained:]]
    print(f"  text: accuracy of shape, colour, background: {_accuracy(text_encoder, heads, held_out)}", flush=True)
    return text_encoder.eval()


def build_text_encoder(tokenizer_dir: Path, num_steps: int, target_dir: Path) -> None:
    """Train the text encoder and save it."""
    train_text_encoder(CLIPTokenizer.from_pretrained(tokenizer_dir), num_steps).save_pretrained(target_dir)
