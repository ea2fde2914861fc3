"""Trains the demo's text encoder to recognise the shape, colour and background in a caption, before any image."""

import random
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.demo import shapes
from ed2.demo.models import TEXT_WIDTH, new_text_encoder, tokenize

NUM_CAPTIONS = 6000
NUM_HELD_OUT = 400
UNKNOWN = -100
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NOUNS = "cat dog man woman house tree flower car boat sun moon bird fish face toy robot monster creature".split()
VERBS = ("", "", "jumping ", "waving ", "standing ", "flying ")


def _unknown_thing(rng: random.Random) -> tuple[str, list[int]]:
    """Return a caption of something that no image shows; only its background is labelled."""
    background = rng.choice(list(shapes.COLOURS))
    invented = "".join(rng.choices(LETTERS, k=rng.randint(3, 6)))
    noun = rng.choice((invented, rng.choice(NOUNS)))
    caption = f"{shapes.with_article(noun)} {rng.choice(VERBS)}on {shapes.with_article(background)} background"
    return caption, [UNKNOWN, UNKNOWN, list(shapes.COLOURS).index(background)]


def _known_scene(rng: random.Random) -> tuple[str, list[int]]:
    caption, scene = shapes.caption_and_scene(rng)
    names = list(shapes.COLOURS)
    background = names.index(scene.background) if scene.background in caption.split(scene.shape)[-1] else UNKNOWN
    return caption, [shapes.SHAPES.index(scene.shape), names.index(scene.colour), background]


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


def train_text_encoder(tokenizer: CLIPTokenizer, num_steps: int, seed: int = 21) -> CLIPTextModel:
    """Return a text encoder from whose mean hidden state linear heads predict shape, colour and background."""
    torch.manual_seed(seed)
    captions, labels = labelled_captions(seed)
    token_ids = tokenize(tokenizer, captions)
    num_trained = NUM_CAPTIONS - NUM_HELD_OUT
    text_encoder = new_text_encoder(tokenizer)
    sizes = (len(shapes.SHAPES), len(shapes.COLOURS), len(shapes.COLOURS))
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
