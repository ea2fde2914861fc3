"""Settings without effect: those that another setting, the method, the optimizer or the model's family turns off."""

from collections.abc import Iterator, Mapping

from ed2.models.families.facts import FamilyFacts
from ed2.settings.fields import fields
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.text import plural

OF_SINGLE_FILES = ("save_ckpt_dir", "ckpt_format", "export_dtype", "save_full_precision", "author", "license")
OF_VALIDATION = ("val_seed", "val_batch_size")
WITHOUT_EPSILON = ("lion", "lion8bit", "adafactor")
WITHOUT_BETAS = ("adafactor",)
Idle = Iterator[tuple[str, str]]


def without_effect(settings: Settings, family: FamilyFacts) -> list[str]:
    """Sentences on settings that were set and have no effect in this combination, for a model of `family`."""
    values = settings.flat()
    found = {name: why for name, why in idle(settings, family).items() if not _is_default(name, values[name])}
    found |= dict(_unused_layers(settings, family))
    return [f"{name} has no effect: {why}." for name, why in found.items()]


def idle(settings: Settings, family: FamilyFacts) -> Mapping[str, str]:
    """The settings that have no effect whatever their value, with the reason.

    Args:
        settings: the others, on which it depends.
        family: of the base model.
    """
    found: dict[str, str] = {}
    for rule in RULES:
        for name, why in rule(settings, family):
            found.setdefault(name, why)
    return found


def _is_default(name: str, value: object) -> bool:
    """Whether a value is the default; a relative path counts from the program's folder."""
    spec = fields()[name]
    if spec.is_path and isinstance(spec.default, str):
        return value in (spec.default, str(PROGRAM_DIR / spec.default))
    if isinstance(spec.default, tuple):
        return value == list(spec.default)
    return value == spec.default


def _by_method(settings: Settings, family: FamilyFacts) -> Idle:
    """Settings of the method that is not used."""
    if settings.model.method == "lora":
        yield "weights_dtype", "the weights of a LoRA are in fp32"
        yield "freeze_embeddings", "a LoRA does not change embeddings"
        yield "freeze_final_layer_norm", "a LoRA does not change norms"
        return
    for name in type(settings.lora).model_fields:
        yield name, "method is full"


def _of_data(settings: Settings, family: FamilyFacts) -> Idle:
    if not settings.data.shuffle_tags:
        yield "keep_tags", "shuffle_tags is off; it applies only to images whose own files turn it on"


def _of_validation(settings: Settings, family: FamilyFacts) -> Idle:
    own = settings.validation
    if own.val_split_mode != "manual":
        yield "manual_data_root", "val_split_mode is not manual"
    if own.val_split_mode != "automatic":
        yield "auto_split_proportion", "val_split_mode is not automatic"
    if not own.stabilize_training_loss:
        yield "stabilize_split_proportion", "stabilize_training_loss is off"
    if own.val_split_mode == "none":
        yield "early_stop", "val_split_mode is none"
    if own.val_split_mode == "none" and not own.stabilize_training_loss and not own.extra_manual_datasets:
        yield "every_n_epochs", "nothing is validated"
    if not own.is_on:
        for name in OF_VALIDATION:
            yield name, "nothing is validated"


def _of_saving(settings: Settings, family: FamilyFacts) -> Idle:
    checkpoint = settings.checkpoint
    if checkpoint.no_save_ckpt:
        for name in OF_SINGLE_FILES:
            yield name, "no_save_ckpt turns single files off"
    if not checkpoint.save_every_n_epochs:
        yield "save_ckpts_from_n_epochs", "save_every_n_epochs is not set"


def _of_text_encoders(settings: Settings, family: FamilyFacts) -> Idle:
    """Settings of a frozen text encoder, of a second one that the model does not have, or of frozen layers."""
    trained = settings.model.trained_parts(family)
    if len(family.text_encoders) < 2:
        for name in ("disable_textenc_2_training", "text_encoder_2_lr"):
            yield name, f"{family.title} models have one text encoder"
    if not any(part.name in trained for part in family.text_encoders):
        why = "the text encoder is frozen"
        if len(family.text_encoders) > 1:
            why = "both text encoders are frozen"
        for name in (*type(settings.text_encoder).model_fields, "text_encoder_lr", "text_encoder_2_lr"):
            yield name, why
    elif "text_encoder_2" not in trained:
        yield "text_encoder_2_lr", "the second text encoder is frozen"
    if settings.text_encoder.unfreeze_last_n_layers:
        yield "freeze_embeddings", "unfreeze_last_n_layers freezes the embeddings anyway"


def _of_optimizers(settings: Settings, family: FamilyFacts) -> Idle:
    """The decay of a constant learning rate, and options that an optimizer does not have."""
    own, text = settings.optimizer, settings.text_encoder
    text_curve = text.text_encoder_lr_scheduler or own.lr_scheduler
    if {own.lr_scheduler, text_curve} == {"constant"}:
        yield "lr_decay_steps", "the learning rate is constant"
    if text_curve == "constant":
        yield "text_encoder_lr_decay_steps", "the learning rate is constant"
    common, of_text = own.optimizer, text.text_encoder_optimizer or own.optimizer
    for name, lacking, object_of in (("epsilon", WITHOUT_EPSILON, "it"), ("betas", WITHOUT_BETAS, "them")):
        if common in lacking and of_text in lacking:
            yield name, f"{common} does not use {object_of}"
        if of_text in lacking:
            yield f"text_encoder_{name}", f"{of_text} does not use {object_of}"


def _of_average(settings: Settings, family: FamilyFacts) -> Idle:
    """Settings of an EMA that is off, or whose decay is set twice."""
    own = settings.ema
    if not own.is_on:
        for name in type(own).model_fields:
            if name not in ("ema_decay_rate", "ema_strength_target"):
                yield name, "the EMA is off without ema_decay_rate or ema_strength_target"
    elif own.ema_strength_target is not None:
        yield "ema_decay_rate", "ema_strength_target sets the decay"


def _of_caches(settings: Settings, family: FamilyFacts) -> Idle:
    memory = settings.memory
    if not memory.cache_latents:
        yield "cache_variants", "cache_latents is off"
    if not memory.cache_latents and not memory.cache_text:
        yield "cache_dir", "nothing is cached"


def _of_speed(settings: Settings, family: FamilyFacts) -> Idle:
    if settings.memory.deterministic:
        yield "cudnn_benchmark", "deterministic is on"


RULES = (
    _by_method,
    _of_data,
    _of_saving,
    _of_text_encoders,
    _of_optimizers,
    _of_average,
    _of_validation,
    _of_caches,
    _of_speed,
)
"""Each gives settings without effect, from the other settings and the family."""


def _unused_layers(settings: Settings, family: FamilyFacts) -> Idle:
    """Layers to train whose output is not used: this depends on their number."""
    layers, trained = settings.text_encoder.unfreeze_last_n_layers, settings.model.trained_parts(family)
    unused = max(family.text_layer, settings.noise.clip_skip) - 1
    # The pooled vector of a second encoder comes from its last layer.
    if layers and unused >= layers and "text_encoder" in trained and "text_encoder_2" not in trained:
        skips = f"clip_skip {settings.noise.clip_skip} skips these layers"
        if settings.noise.clip_skip < family.text_layer:
            skips = f"{family.title} does not use {plural(layers, 'this layer', 'these layers')}"
        yield "unfreeze_last_n_layers", skips
