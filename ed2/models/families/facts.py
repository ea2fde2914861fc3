"""How the model families differ, one row each, and which family a model belongs to. Needs no torch.

Settings, checks, the memory plan, file reading and export ask this table; nothing else names a family. To add one,
write a row here, its module, a row in `FAMILIES` of `ed2.registry`, and its figures for the memory plan.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ed2.text import listed

VAE = "vae"
"""Name of the part that the setting of this name replaces."""
UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."
OPEN_CLIP_PREFIX = "cond_stage_model.model."

POSITION_IDS = "text_model.embeddings.position_ids"
"""A counter in the files of a CLIP text encoder; unused."""
LOGIT_SCALE = "logit_scale"
"""A factor in the files of an OpenCLIP text encoder that only comparing texts with images uses."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """A part of a model that holds weights.

    Attributes:
        name: of its folder.
        title: in sentences.
        library: of the class that the weights are loaded into.
        class_name: of that class.
        stem: name of the file of the weights in a diffusers folder, without its extension.
        prefix: of its tensors' names in a single file.
        saved_prefix: of the names in a folder, whether or not the module in memory has it.
        sign: pattern of a tensor name that every such part has.
        model_types: its possible `model_type` values in a transformers config.
        is_trainable: whether it can be trained.
        is_open_clip: whether a single file contains it under OpenCLIP's names.
        tokenizer: name of the folder of its tokenizer.
        num_layers: the most layers of an OpenCLIP text encoder that a diffusers folder has; a file may have more.
        has_projection: whether a text encoder ends in a projection, for a pooled embedding.
        file_only: names, without the prefix, of tensors that every single file has and no folder does.
        lora_prefix: of its layers' names in the file of a LoRA.
        other_lora_prefixes: that other programs write.
    """

    name: str
    title: str
    library: str = "diffusers"
    class_name: str
    stem: str = "diffusion_pytorch_model"
    prefix: str
    saved_prefix: str = ""
    sign: str
    model_types: tuple[str, ...] = ()
    is_trainable: bool = False
    is_open_clip: bool = False
    tokenizer: str = ""
    num_layers: int = 0
    has_projection: bool = False
    file_only: tuple[str, ...] = ()
    lora_prefix: str = ""
    other_lora_prefixes: tuple[str, ...] = ()

    @property
    def is_text_encoder(self) -> bool:
        """Whether it encodes captions."""
        return bool(self.model_types)

    @property
    def config(self) -> str:
        """Its configuration, by its path in a diffusers folder."""
        return f"{self.name}/config.json"

    @property
    def file(self) -> str:
        """Its weights, by their path in a diffusers folder."""
        return f"{self.name}/{self.stem}.safetensors"


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """A family of models.

    Attributes:
        title: its usual name.
        tag: what file names call its usual models.
        parts: the parts with weights, in the order in which they are loaded and trained.
        pipeline: the class of the whole model in diffusers.
        pipeline_mark: pattern of that class and of more specialised ones for the same weights.
        resolution: of its training images, one side in pixels.
        noise_resolution: that of its models that predict noise, where it is another.
        latent_channels: of the VAE.
        latent_scale: factor that brings its latents to about unit variance.
        vae_overflows_fp16: whether numbers inside its VAE exceed the range of fp16.
        prediction_type: what its models predict unless they say otherwise; None if they have to say it.
        has_unmarked_v: whether files of its models that predict v are common and do not all say so.
        text_width: of the embeddings that the UNet attends to.
        text_layer: the layer of the text encoders that the UNet attends to, counted from the end as web UIs count.
        text_mark: a pattern of the names of its text encoder's tensors in a single file.
        unet_config: entries of the UNet's config.json that tell this family from those before it in the table.
        has_linear_projections: whether the matrices before and after the UNet's transformers are 2-D; else they are 1x1
            convolutions.
        has_added_embedding: whether the UNet embeds more than the timestep, such as sizes.
        file_mark: pattern of those tensors of a base's single file beyond a diffusers folder that exports contain too.
        index: what the model_index.json of our folders says besides its parts.
        kept_switches: names in it that a base's own folder may set otherwise.
        architecture: its name in the metadata of single files. Source: https://github.com/Stability-AI/ModelSpec
        v_architecture: that of its models that predict v, where it is another.
        implementation: the code whose names for tensors its single files have, in the same metadata.
        lora_version: what the metadata of a LoRA calls the kind of base. Source: kohya-ss/sd-scripts.
        lora_has_original_blocks: whether the names in a LoRA are those of the original single file's blocks.
        best_text_layers: train only this many of the text encoder's last layers if memory is short; None is all or
            none.
        traces: names of the traced figures for the memory plan, the usual size first.
    """

    name: str
    title: str
    tag: str
    parts: tuple[PartFacts, ...]
    pipeline: str
    pipeline_mark: str
    resolution: int
    noise_resolution: int | None = None
    latent_channels: int = 4
    latent_scale: float = 0.18215
    vae_overflows_fp16: bool = False
    prediction_type: str | None = "epsilon"
    has_unmarked_v: bool = False
    text_width: int
    text_layer: int = 1
    text_mark: str
    unet_config: Mapping[str, object] = field(default_factory=dict)
    has_linear_projections: bool = True
    has_added_embedding: bool = False
    file_mark: str | None = None
    index: Mapping[str, object] = field(default_factory=dict)
    kept_switches: tuple[str, ...] = ()
    architecture: str
    v_architecture: str = ""
    implementation: str = "ldm"
    lora_version: str
    lora_has_original_blocks: bool = False
    best_text_layers: int | None = None
    traces: tuple[str, ...]

    @property
    def text_encoders(self) -> tuple[PartFacts, ...]:
        """The parts that encode captions."""
        return tuple(part for part in self.parts if part.is_text_encoder)

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Names of the folders of its tokenizers."""
        return tuple(encoder.tokenizer for encoder in self.text_encoders)

    def architecture_of(self, prediction_type: str) -> str:
        """The name in the metadata of single files for models that predict this, in diffusers' words."""
        if prediction_type == "v_prediction" and self.v_architecture:
            return self.v_architecture
        return self.architecture

    def resolution_of(self, prediction_type: str | None) -> int:
        """The resolution that models which predict this were made at; None is unknown."""
        if prediction_type == "epsilon" and self.noise_resolution:
            return self.noise_resolution
        return self.resolution

    def tag_of(self, prediction_type: str | None) -> str:
        """What file names call a model that predicts this: `sd15`, or `sd21768v` where it predicts v."""
        if prediction_type != "v_prediction":
            return self.tag
        if self.noise_resolution:  # which the tag alone stands for
            return f"{self.tag}{self.resolution}v"
        return f"{self.tag}v"

    def part(self, name: str) -> PartFacts:
        """The part of that name. Raises KeyError."""
        return {part.name: part for part in self.parts}[name]


def _unet() -> PartFacts:
    return PartFacts(
        name="unet",
        title="UNet",
        class_name="UNet2DConditionModel",
        prefix=UNET_PREFIX,
        sign=r"^conv_in\.weight$",
        is_trainable=True,
        lora_prefix="lora_unet",
    )


def _vae() -> PartFacts:
    return PartFacts(
        name=VAE,
        title="VAE",
        class_name="AutoencoderKL",
        prefix=VAE_PREFIX,
        sign=r"encoder\.conv_in\.weight$",
    )


def _text_encoder(
    prefix: str,
    number: str = "",
    *,
    num_layers: int = 0,
    has_projection: bool = False,
    file_only: tuple[str, ...] = (),
    lora_prefixes: tuple[str, ...] = ("lora_te", "lora_te1"),
) -> PartFacts:
    return PartFacts(
        name=f"text_encoder{number}",
        title="second text encoder" if number else "text encoder",
        library="transformers",
        class_name="CLIPTextModelWithProjection" if has_projection else "CLIPTextModel",
        stem="model",
        prefix=prefix,
        # A class with a projection has the prefix in memory too, and a name without it.
        saved_prefix="" if has_projection else "text_model.",
        sign=r"(^|\.)embeddings\.token_embedding\.weight$",
        model_types=("clip_text_model", "clip"),
        is_trainable=True,
        is_open_clip=prefix.endswith(".model."),
        tokenizer=f"tokenizer{number}",
        num_layers=num_layers,
        has_projection=has_projection,
        file_only=file_only,
        lora_prefix=lora_prefixes[0],
        other_lora_prefixes=lora_prefixes[1:],
    )


_NOT_THERE = [None, None]
_SD_INDEX = {
    "safety_checker": _NOT_THERE,
    "feature_extractor": _NOT_THERE,
    "image_encoder": _NOT_THERE,
    "requires_safety_checker": False,
}

_SD1 = FamilyFacts(
    name="sd1",
    title="SD 1.x",
    tag="sd15",
    parts=(_unet(), _vae(), _text_encoder(CLIP_PREFIX)),
    pipeline="StableDiffusionPipeline",
    pipeline_mark=r"StableDiffusion(?!3)(?!.*XL)",
    resolution=512,
    text_width=768,
    text_mark="^" + re.escape(CLIP_PREFIX),
    has_linear_projections=False,
    index=_SD_INDEX,
    architecture="stable-diffusion-v1",
    lora_version="sd_v1",
    traces=("sd1", "demo"),
)
_SD2 = FamilyFacts(
    name="sd2",
    title="SD 2.x",
    tag="sd21",
    parts=(_unet(), _vae(), _text_encoder(OPEN_CLIP_PREFIX, num_layers=23)),
    pipeline="StableDiffusionPipeline",
    pipeline_mark=r"StableDiffusion(?!3)(?!.*XL)",
    resolution=768,
    noise_resolution=512,
    prediction_type=None,
    text_width=1024,
    text_mark="^" + re.escape(OPEN_CLIP_PREFIX),
    unet_config={"use_linear_projection": True},
    file_mark="^" + re.escape(OPEN_CLIP_PREFIX),
    index=_SD_INDEX,
    architecture="stable-diffusion-v2-512",
    v_architecture="stable-diffusion-v2-768-v",
    lora_version="sd_v2",
    best_text_layers=2,
    traces=("sd2",),
)
_SDXL = FamilyFacts(
    name="sdxl",
    title="SDXL",
    tag="sdxl",
    parts=(
        _unet(),
        _vae(),
        _text_encoder(
            "conditioner.embedders.0.transformer.", file_only=(POSITION_IDS,), lora_prefixes=("lora_te1", "lora_te")
        ),
        _text_encoder(
            "conditioner.embedders.1.model.",
            "_2",
            num_layers=32,
            has_projection=True,
            file_only=(LOGIT_SCALE,),
            lora_prefixes=("lora_te2",),
        ),
    ),
    pipeline="StableDiffusionXLPipeline",
    pipeline_mark="StableDiffusionXL",
    resolution=1024,
    latent_scale=0.13025,
    vae_overflows_fp16=True,
    has_unmarked_v=True,
    text_width=2048,
    text_layer=2,
    text_mark=r"^conditioner\.embedders\.1\.",
    unet_config={"addition_embed_type": "text_time"},
    has_added_embedding=True,
    file_mark=r"^(?!model_ema\.)",
    index={"feature_extractor": _NOT_THERE, "image_encoder": _NOT_THERE, "force_zeros_for_empty_prompt": True},
    kept_switches=("force_zeros_for_empty_prompt",),
    architecture="stable-diffusion-xl-v1-base",
    lora_version="sdxl_base_v1-0",
    lora_has_original_blocks=True,
    implementation="sgm",
    traces=("sdxl",),
)

FACTS = {family.name: family for family in (_SD1, _SD2, _SDXL)}
"""Facts by family name."""
DEFAULT = _SD1
"""The family to plan for if nothing says which one it is."""


def trainable_titles() -> str:
    """The families that can be trained, for a sentence: `SD 1.x or SD 2.x`."""
    return listed([family.title for family in FACTS.values()], "or")


def family_of_config(unet_config: Mapping[str, Any]) -> FamilyFacts:
    """The family of a diffusers folder, from the config.json of its UNet."""
    found = DEFAULT
    for family in FACTS.values():
        if all(unet_config.get(name) == value for name, value in family.unet_config.items()):
            found = family
    return found


def is_trainable_pipeline(class_name: str) -> bool:
    """Whether a diffusers pipeline of this class is of a family that can be trained."""
    return any(re.match(family.pipeline_mark, class_name) for family in FACTS.values())
