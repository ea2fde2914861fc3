"""What the config.json of a part may say: the class that it is for, numbers of a possible size, and no code."""

from collections.abc import Iterator, Mapping
from typing import Any

from ed2.errors import shown

MAX_NUMBER = 1_000_000
"""Wider than any layer; the configurations hold counts, widths and small factors."""
MAX_LAYERS = 100
MAX_ITEMS = 64
LAYER_COUNTS = ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block", "num_attention_heads")
CODE = ("auto_map", "custom_pipeline", "quantization_config")
KINDS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
TEXT_MODELS = ("clip_text_model", "clip")


def config_fault(part: str, config: object) -> str:
    """Say why a part cannot be made from its configuration, without the full stop; empty where it may be."""
    if not isinstance(config, Mapping):
        return "it holds no settings of a network"
    for name in CODE:
        if config.get(name):
            return f"it asks for code or a library of its own ({name}), which is not run here"
    if any("/" in str(config.get(name) or "") for name in ("_attn_implementation", "attn_implementation")):
        return "it asks for code from elsewhere (attn_implementation), which is not run here"
    kind, wanted = config.get("_class_name"), KINDS.get(part)
    if wanted and kind and kind != wanted:
        return f"this is a {shown(kind)}, and {wanted} is needed"
    if part == "text_encoder" and config.get("model_type", "clip") not in TEXT_MODELS:
        return f"this is a text encoder of the kind {shown(config['model_type'])}, and CLIP is needed"
    return next(_impossible(config), "")


def _impossible(config: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for name, value in config.items():
        items = value if isinstance(value, list | tuple) else [value]
        if len(items) > MAX_ITEMS or depth > 3:
            yield f"{shown(name)} holds more than a network can have"
            continue
        highest = MAX_LAYERS if name in LAYER_COUNTS else MAX_NUMBER
        for item in items:
            if isinstance(item, int | float) and not abs(item) <= highest:  # NaN compares as false
                yield f"{name} is {shown(item)}, which no network has"
            elif isinstance(item, Mapping):
                yield from _impossible(item, depth + 1)
