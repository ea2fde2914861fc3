"""A hash of a part's weights and configuration, by which results computed with it can be kept."""

import hashlib
import json

import torch

from ed2.models.base import DiffusionModel


def part_hash(model: DiffusionModel, name: str) -> str:
    """The hash of a part as it computes: its weights in their precision, its configuration, a tokenizer's files."""
    part, facts = model.parts[name], model.facts.part(name)
    config = {key: value for key, value in model.source.config(facts.config).items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    if facts.is_text_encoder:
        for path, content in sorted(model.source.small_files.items()):
            if path.startswith(f"{facts.tokenizer}/"):
                digest.update(content)
    named = {part.saved_name(key): tensor for key, tensor in part.module.state_dict().items()}
    for key, tensor in sorted(named.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
