"""Every setting of the program, with its name, type, bounds, default and help in one place.

The command line, the presets, the form in the browser, `docs/settings.md` and the checks are all generated from
the classes below. Inside the program settings are grouped (`settings.sampling.sample_steps`); outside they are flat
(`--sample_steps 100`, `{"sample_steps": 100}`), under the names that EveryDream 2 gave them.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from ed2.disk import is_reserved
from ed2.models.families.facts import FACTS, FamilyFacts, PartFacts
from ed2.registry import LOSSES, OPTIMIZERS, SCHEDULES

RESOLUTIONS = (256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152, 1280, 1536)
"""The resolutions that a user chooses from: an image is trained at about resolution x resolution pixels."""
SMALL_RESOLUTIONS = (64, 128, 192)
"""Resolutions for the demo and the tests, whose model is tiny."""


@dataclass(frozen=True)
class IsPath:
    """Marks a setting that holds a file or folder, so that relative paths are resolved."""


@dataclass(frozen=True)
class OneOf:
    """Allows only these values; the error names the nearest numbers, or all names."""

    choices: Collection[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Check the value after pydantic checked its type."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: Any) -> Any:
        """Return `value` if it is allowed.

        Raises:
            ValueError: with what is allowed.
        """
        if value in self.choices:
            return value
        if isinstance(value, int):
            below = [choice for choice in self.choices if choice < value]
            above = [choice for choice in self.choices if choice > value]
            near = [*below[-1:], *above[:1]]
            raise ValueError(f"choose {' or '.join(map(str, near))}")
        raise ValueError(f"choose one of {', '.join(map(str, self.choices))}")


_MAX_NAME_BYTES = 160
"""File systems allow 255 bytes, and a run's files add some 60."""


def _safe_name(value: str) -> str:
    if not value.strip(" ._") or any(c in '<>:"/\\|?*' or ord(c) < 32 for c in value) or value[0] in ".-":
        raise ValueError(
            'it becomes part of file names: use letters, digits, "-", "_" and ".", starting with a letter or digit'
        )
    if is_reserved(value):
        raise ValueError("Windows reserves this name; choose another")
    if len(value.encode()) > _MAX_NAME_BYTES:
        raise ValueError("it is too long for file names; choose a shorter one")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise ValueError("choose auto, cpu, cuda, or one GPU such as cuda:0")
    return value


def _colour(value: str) -> str:
    if not re.fullmatch(r"white|black|grey|#[0-9a-fA-F]{6}", value):
        raise ValueError("choose white, black, grey, or a colour such as #80ff00")
    return value


class Group(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


DEFAULT_LR = {"full": 1e-6, "lora": 1e-4}
"""Learning rate of the UNet by method. Source of the second: diffusers, examples/text_to_image/README.md."""
TEXT_ENCODER_SHARE = 0.5
"""Learning rate of a text encoder without one of its own, relative to the UNet's. At the same rate it forgets."""

PRODIGY_LR = 1.0
"""Learning rate of the UNet with Prodigy, which finds the rate itself: a factor on it."""

Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
"""The decay rates of an optimizer's two running averages."""


class RunSettings(Group):
    """Run"""

    project_name: Annotated[str, Field(max_length=80), AfterValidator(_safe_name)] = "myproj"
    """Name of the project. Run folders and checkpoints start with it."""
    max_epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    """Number of times each image is seen; sets the amount of training. There are no repeats: 50 repeats x 5 epochs
    elsewhere are 250 epochs here."""
    seed: Annotated[int, Field(ge=-1, le=2**31 - 1)] = 555
    """Seed of all random draws. -1 picks one and records it."""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """Device to train on: auto (the first GPU, else the CPU), cpu, cuda or cuda:N."""
    num_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that train together, one for each GPU. A step then takes batch_size x grad_accum images of each."""


class DataSettings(Group):
    """Dataset"""

    data_root: Annotated[tuple[Annotated[str, IsPath()], ...], Field(min_length=1)] = ("input",)
    """Folders of captioned images, searched with their subfolders, or JSON manifests; on the page, one
    per line, in a terminal separated by spaces."""
    resolution: Annotated[int, OneOf(SMALL_RESOLUTIONS + RESOLUTIONS)] = 512
    """Training resolution. Each image keeps its shape and is scaled to about resolution x resolution pixels."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 2
    """Images per forward pass. Stay below a tenth of the dataset. A larger batch allows a slightly higher learning
    rate."""
    grad_accum: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches to average gradients over before each step, which acts like a larger batch. Going from 1 to 2 needs more
    memory."""
    cond_dropout: Annotated[float, Field(ge=0, le=1)] = 0.04
    """Probability of training an image without its caption. Guidance (CFG) relies on it."""
    flip_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of mirroring an image. Keep 0 for faces, text and anything with a left and a right side."""
    shuffle_tags: bool = False
    """Shuffle the tags of a caption, which are its parts after the first comma, each time the image is seen."""
    keep_tags: Annotated[int, Field(ge=0)] = 0
    """Number of tags after the main prompt that shuffle_tags keeps in place."""
    caption_chunks: Annotated[int, Field(ge=1, le=3)] = 1
    """Read this many chunks of 75 tokens of a caption or sample prompt, and ignore the rest. Web UIs read all of a
    prompt, in such chunks."""
    follow_links: bool = False
    """Search folders outside the image folders too if a link in them leads there."""
    alpha_background: Annotated[str, AfterValidator(_colour)] = "white"
    """Background colour behind transparent images: white, black, grey, or a colour such as #80ff00."""
    write_schedule: bool = False
    """Write a list of the images in each step of each epoch to the run folder."""
    decode_threads: Annotated[int, Field(ge=0, le=64)] = 0
    """Threads that load images in advance; 0 chooses automatically. Does not affect the result."""


class ModelSettings(Group):
    """Model"""

    method: Literal["full", "lora"] = "full"
    """What is trained: the model itself (full), or small matrices beside its weights (lora), in a file of tens of
    megabytes that web UIs add to the model. A LoRA needs much less memory."""
    resume_ckpt: Annotated[str, IsPath()] = ""
    """Model to start from: a diffusers folder, a .safetensors or .ckpt file, or a checkpoint of a run. `findlast`
    takes the newest checkpoint in the log folder."""
    weights_only: bool = False
    """Use only the weights of resume_ckpt and start a new run at step 0, even if the run could be resumed."""
    model_family: Annotated[str, OneOf(tuple(FACTS))] | None = None
    """Family of a base model that is not on this disk, used to plan its memory. Read from the file if it is here."""
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What the model predicts: noise (epsilon) or velocity (v_prediction). Set it only if the model does not say. Files
    of SD 1.x and SDXL that do not are trained as epsilon, and the run says so."""
    vae: Annotated[str, IsPath()] | None = None
    """VAE to use in place of the base model's: a file, a folder or a public name. Completes a base model without one.
    Checkpoints and single files contain it."""
    model_dirs: tuple[Annotated[str, IsPath()], ...] = ()
    """Folders to look for base models in, besides those of the Hugging Face cache and of web UIs near the program."""
    disable_unet_training: bool = False
    """Freeze the UNet and train only the text encoder (both of an SDXL model)."""
    disable_textenc_training: bool = False
    """Freeze the text encoder (both of an SDXL model) and train only the UNet. Saves memory."""
    disable_textenc_2_training: bool | None = None
    """Freeze SDXL's second text encoder (true), or train it even if the first is frozen (false). Empty freezes it
    together with the first."""

    def trained_parts(self, family: FamilyFacts) -> list[str]:
        """Names of the parts of a model of `family` that are trained."""
        text, second = self.disable_textenc_training, self.disable_textenc_2_training
        if second is None:
            second = text
        is_frozen = {"unet": self.disable_unet_training, "text_encoder": text, "text_encoder_2": second}
        return [part.name for part in family.parts if part.is_trainable and not is_frozen[part.name]]


class LoraSettings(Group):
    """LoRA"""

    lora_rank: Annotated[int, Field(ge=1, le=256)] = 16
    """Size of a LoRA's matrices. A higher rank learns more detail, and makes a larger file."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """What a LoRA is multiplied by, times its rank. Empty uses the rank, for a factor of 1."""
    lora_layers: Literal["attention", "linear", "all"] = "linear"
    """Which layers a LoRA changes: attention only; linear adds feed-forward layers and projections; all adds
    convolutions."""
    lora_dora: bool = False
    """Train the length of each row of a weight apart from its direction (DoRA). Closer to a full fine-tune at low
    ranks, but slower and with more memory; diffusers and AUTOMATIC1111's web UI cannot use its single file."""
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a layer's inputs that a LoRA does not see in training, drawn anew for each image. 0.1 or less helps
    against memorisation of a small dataset."""
    lora_base: Annotated[str, IsPath()] | None = None
    """Where the base model of a LoRA's checkpoint is now, if it was moved."""

    @property
    def alpha(self) -> float:
        """The alpha that is set, else the rank."""
        if self.lora_alpha is None:
            return self.lora_rank
        return self.lora_alpha


class MemorySettings(Group):
    """Speed and memory"""

    amp: bool = True
    """Automatic mixed precision: faster and uses less memory. Uses bf16 if the GPU supports it, else fp16. Off on a
    CPU."""
    amp_dtype: Literal["fp16", "bf16"] | None = None
    """Number format of mixed precision. Empty chooses by GPU."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of storing them: uses much less memory, about a quarter slower. Needed on a 12 GB
    card."""
    attn_type: Literal["sdp", "slice", "xformers"] = "sdp"
    """Attention implementation. sdp is PyTorch's own and the best choice; slice is slower and uses more memory in
    training; xformers must be installed first."""
    weights_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of the trained weights and their gradients. bf16 halves their memory; updates are computed in fp32
    and rounded at random, so that small ones count on average. Costs a few percent of speed and a little precision.
    With adamw, adamw8bit, adafactor and lion8bit."""
    fused_backward: bool = False
    """Update each tensor of weights as soon as its gradient is complete, and free the gradient: saves nearly all memory
    of gradients, a little slower. Gradients are clipped tensor by tensor, at 1. Not with grad_accum or fp16; the same
    optimizers as bf16 weights."""
    cache_latents: bool = False
    """Encode the images before training and keep the result on disk, so that steps are faster and need no VAE. Crops
    and flips are then drawn among cache_variants fixed ones."""
    cache_variants: Annotated[int, Field(ge=1, le=32)] = 4
    """Fixed crops of each image in the latent cache. flip_p is the share of them that is mirrored. More are closer to
    training without a cache, and take more disk space."""
    cache_text: bool = False
    """Encode the captions before training and keep the result on disk, where text encoders are frozen. Does not affect
    the result."""
    cache_dir: Annotated[str, IsPath()] = "user/cache"
    """Folder of the caches, which runs share. It can be deleted at any time; what is missing is made again."""
    channels_last: bool = False
    """Store convolution tensors in channels-last order. Slightly faster on some GPUs."""
    tf32: Literal["on", "off"] | None = None
    """Multiply numbers in fp32 with 10 of their 23 bits (TF32), on an RTX 30 or newer: faster. Empty turns it on with
    mixed precision, and off without, which asks for fp32."""
    cudnn_benchmark: bool = False
    """Try the algorithms of cuDNN at each new image size, and use the fastest: the first step at each size takes
    seconds longer and more memory, later ones may be faster. Results differ from run to run. Not with deterministic."""
    torch_compile: bool = False
    """Compile the UNet's transformer blocks: the first step at each image size is slow, later ones are faster."""
    deterministic: bool = False
    """Make a GPU give identical bytes when a run is repeated or resumed, as a CPU always does. Slower, and without
    mixed precision attention uses more memory. Not with xformers or torch_compile."""

    @property
    def uses_tf32(self) -> bool:
        """Whether a GPU may use TF32 for what it computes in fp32."""
        return self.tf32 == "on" or (self.tf32 is None and self.amp)


class OptimizerSettings(Group):
    """Optimizer"""

    optimizer: Annotated[str, OneOf(OPTIMIZERS)] | None = None
    """Optimizer. Empty chooses adamw8bit on a GPU and adamw on a CPU."""
    useadam8bit: bool = False
    """Same as `optimizer adamw8bit`: AdamW with a quarter of the optimizer memory. On a GPU it is used anyway unless
    another optimizer is chosen."""
    lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of the UNet; text encoders get half of it. Empty uses 1e-6, for a LoRA 1e-4. Halve it at resolution
    768."""
    text_encoder_lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of the text encoder. Empty uses half of the UNet's, since it forgets faster."""
    text_encoder_2_lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of SDXL's second text encoder. Empty uses that of the first."""
    lr_scheduler: Annotated[str, OneOf(SCHEDULES)] = "constant"
    """Learning rate over the run: constant, or falling to 0 at the end of training (linear, cosine, polynomial)."""
    lr_warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the learning rate rises at the start. Empty uses none for constant and a fiftieth of the run for
    the others."""
    lr_decay_steps: Annotated[int, Field(ge=0)] | None = None
    """Step at which a falling learning rate reaches 0. Empty or 0 uses the end of training."""
    betas: Betas | None = None
    """Decay rates of the running averages of the gradient and its square. Empty uses 0.9 0.999, for Lion 0.9 0.99."""
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Small number in the denominator of the update that prevents division by zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay, multiplied by the learning rate. Lion needs about ten times as much."""
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Maximum norm of the gradient; larger gradients are scaled down to it. Empty turns clipping off."""

    def chosen(self, *, on_card: bool) -> str:
        """The optimizer of all networks: the one that is set, else adamw8bit on a GPU and adamw on a CPU."""
        if self.useadam8bit:
            return "adamw8bit"
        return self.optimizer or ("adamw8bit" if on_card else "adamw")

    def lr_of(self, part: str, usual: float) -> float:
        """The learning rate of a trained part: its own, else the UNet's, of which text encoders get half.

        Where none is set, the UNet has the `usual` one.
        """
        unet, first, second = self.lr, self.text_encoder_lr, self.text_encoder_2_lr
        if unet is None:
            unet = usual
        if first is None:
            first = unet * TEXT_ENCODER_SHARE
        if second is None:
            second = first
        return {"unet": unet, "text_encoder": first, "text_encoder_2": second}[part]


class TextEncoderSettings(Group):
    """Text encoder"""

    text_encoder_optimizer: Annotated[str, OneOf(OPTIMIZERS)] | None = None
    """Optimizer of the text encoder. Empty uses that of the UNet, as with all text_encoder settings. All hold for both
    text encoders of SDXL."""
    text_encoder_lr_scheduler: Annotated[str, OneOf(SCHEDULES)] | None = None
    """Learning rate schedule of the text encoder."""
    text_encoder_lr_warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the text encoder's learning rate rises at the start."""
    text_encoder_lr_decay_steps: Annotated[int, Field(ge=0)] | None = None
    """Step at which the text encoder's falling learning rate reaches 0."""
    text_encoder_betas: Betas | None = None
    """Decay rates of the running averages in the text encoder's optimizer."""
    text_encoder_epsilon: Annotated[float, Field(gt=0, le=1)] | None = None
    """Small number in the denominator of the text encoder's update."""
    text_encoder_weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight decay of the text encoder."""
    unfreeze_last_n_layers: Annotated[int, Field(ge=1)] | None = None
    """Train only this many of the text encoder's last layers and its final layer norm; embeddings stay frozen. Empty
    trains all layers. Use 2 for SD 2.x."""
    freeze_embeddings: bool = False
    """Freeze the token and position embeddings of the text encoder."""
    freeze_final_layer_norm: bool = False
    """Freeze the final layer norm of the text encoder."""


class LossSettings(Group):
    """Loss"""

    loss_type: Annotated[str, OneOf(LOSSES)] = "mse"
    """Loss function: mse; huber, less sensitive to outliers; mse_huber goes from mse at timestep 0 to huber at the last
    timestep, huber_mse the other way."""
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    """Limit on the loss weight of timesteps with little noise (arXiv:2303.09556). 5 is usual; empty turns it off."""
    timestep_start: Annotated[int, Field(ge=0, le=999)] = 0
    """First timestep to train."""
    timestep_end: Annotated[int, Field(ge=1, le=1000)] = 1000
    """End of the timesteps to train (exclusive). 1000 includes the noisiest."""


class NoiseSettings(Group):
    """Noise"""

    zero_frequency_noise_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Offset noise: lets the model learn darker and brighter images. 0.02 is usual."""
    pyramid_noise_discount: Annotated[float, Field(ge=0, le=1)] | None = None
    """Mix in coarser noise; each coarser level is weighted by this fraction of the previous one. 0.03 is usual."""
    enable_zero_terminal_snr: bool = False
    """Train and sample from pure noise (arXiv:2305.08891), for true blacks and whites. For v_prediction models."""
    embedding_perturbation: Annotated[float, Field(ge=0)] = 0.0
    """Noise on the caption embedding (arXiv:2405.20494), for less memorisation. 1 is usual."""
    clip_skip: Annotated[int, Field(ge=0, le=4)] = 0
    """Take the text encoder's output this many layers before the end, as web UIs count. 0 and 1 both use the last
    layer; SDXL uses the last but one for 0, 1 and 2. SD 2.x never uses the last layer, and counts without it."""


class EmaSettings(Group):
    """EMA (moving average of the weights)"""

    ema_decay_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep a moving average of the weights (EMA) with this decay per update, such as 0.99. It is saved next to the
    weights as `_ema`."""
    ema_strength_target: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an EMA with a decay chosen so that this fraction of the initial weights remains at the end of training."""
    ema_update_interval: Annotated[int, Field(ge=1)] = 500
    """Steps between EMA updates."""
    ema_device: Literal["cpu", "cuda"] = "cpu"
    """Where to keep the EMA: cpu uses no GPU memory, cuda is faster."""
    ema_sample_nonema_model: bool = False
    """Draw samples with the trained weights. If set alone, they replace the samples of the EMA."""
    ema_sample_ema_model: bool = False
    """Draw samples with the EMA, the default when it is on. With ema_sample_nonema_model, draw both."""
    ema_resume_model: Annotated[str, IsPath()] | None = None
    """Start the EMA from the weights in this diffusers folder. `findlast` takes the newest EMA in the log folder."""

    @property
    def is_on(self) -> bool:
        """Whether an EMA is kept."""
        return self.ema_decay_rate is not None or self.ema_strength_target is not None

    @property
    def samples_average(self) -> bool:
        """Whether samples are drawn with the EMA."""
        return self.is_on and (self.ema_sample_ema_model or not self.ema_sample_nonema_model)

    @property
    def samples_trained(self) -> bool:
        """Whether samples are drawn with the trained weights."""
        return self.ema_sample_nonema_model or not self.is_on


class SamplingSettings(Group):
    """Sampling"""

    sample_prompts: Annotated[str, IsPath()] = "sample_prompts.txt"
    """Text file with one prompt per line, or a JSON file, read again before each sampling. Empty or none draws no
    samples."""
    sample_steps: Annotated[int, Field(ge=1)] = 250
    """Steps between samples. Samples are also drawn before the first step and after the last."""


def _named_folder(value: str) -> str:
    name, equals, folder = value.partition("=")
    if not equals or not folder or not name or any(c in name for c in "/\\\t\n"):
        raise ValueError("write it as name=folder")
    if name in ("val", "train_stabilized", "log_step", "epoch"):
        raise ValueError(f"the name {name} is taken by another curve")
    return value


class ValidationSettings(Group):
    """Validation"""

    val_split_mode: Literal["none", "automatic", "manual"] = "none"
    """Images for the validation loss: none; automatic holds out part of data_root; manual uses manual_data_root."""
    auto_split_proportion: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of the images that automatic holds out for validation."""
    manual_data_root: Annotated[str, IsPath()] | None = None
    """Folder or manifest of captioned images for validation."""
    extra_manual_datasets: tuple[Annotated[str, AfterValidator(_named_folder), IsPath()], ...] = ()
    """More folders to validate on, each written name=folder. Each gets its own curve, loss/name."""
    stabilize_training_loss: bool = False
    """Also measure part of the training images with fixed noise: the curve loss/train_stabilized."""
    stabilize_split_proportion: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of the training images to measure this way."""
    every_n_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Epochs between validations. 0.25 validates four times per epoch."""
    early_stop: Annotated[int, Field(ge=0)] = 0
    """Validations without a new lowest validation loss after which the run ends, at the end of an epoch. 0 is never."""
    val_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 555
    """Seed of the validation images and their noise."""
    val_batch_size: Annotated[int, Field(ge=1, le=256)] | None = None
    """Images per forward pass in validation. Empty uses batch_size."""
    image_loss_every_n_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs between measurements of the loss of each training image at fixed noise, by which the Dataset tab sorts.
    Each takes about as long as training for one epoch. 0 turns this off."""

    @property
    def is_on(self) -> bool:
        """Whether images are measured during the run."""
        has_curves = self.val_split_mode != "none" or self.stabilize_training_loss or self.extra_manual_datasets
        return bool(has_curves or self.image_loss_every_n_epochs)


class CheckpointSettings(Group):
    """Checkpoints"""

    ckpt_every_n_minutes: Annotated[float, Field(ge=0)] | None = None
    """Minutes between checkpoints; 0 turns this off. Empty uses 30, or 0 if save_every_n_epochs is set. At most this
    often, a new lowest validation loss saves a checkpoint best-..., which replaces the one before."""
    save_every_n_epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs between checkpoints. Empty or 0 turns this off. With thousands of images, save by minutes instead."""
    save_ckpts_from_n_epochs: Annotated[int, Field(ge=0)] = 0
    """Number of epochs before saving by epochs begins."""
    save_ckpt_dir: Annotated[str, IsPath()] | None = None
    """Folder for single files, which web UIs load. Empty uses the program folder."""
    no_save_ckpt: bool = False
    """Save only diffusers folders, no single files."""
    ckpt_format: Literal["safetensors", "ckpt"] = "safetensors"
    """Format of the single file. Tensor names are the same in both."""
    export_dtype: Literal["fp32", "fp16", "bf16"] | None = None
    """Number format of the single file. Empty uses fp16, which every program reads; fp32 doubles the size, and web UIs
    gain nothing from it."""
    save_full_precision: bool = False
    """Short for export_dtype fp32."""
    author: Annotated[str, Field(max_length=200)] | None = None
    """Author to name in the metadata of single files. Empty names none."""
    license: Annotated[str, Field(max_length=1000)] | None = None
    """License to name in the metadata of single files: its name or a link. Empty names none."""
    keep_last: Annotated[int, Field(ge=2)] | None = None
    """Keep only this many of the newest checkpoints with their single files, plus the best by validation loss and those
    marked Keep. Empty keeps all."""
    no_prepend_last: bool = False
    """Save the final checkpoint without the prefix `last-`."""

    @property
    def minutes(self) -> float:
        """Minutes between two checkpoints, 0 for never."""
        if self.ckpt_every_n_minutes is not None:
            return self.ckpt_every_n_minutes
        if self.save_every_n_epochs:
            return 0.0
        return 30.0

    @property
    def single_file_dtype(self) -> str:
        """Number format of the single file: the one that is set, else fp32 with save_full_precision, else fp16."""
        return self.export_dtype or ("fp32" if self.save_full_precision else "fp16")


class LoggingSettings(Group):
    """Logging"""

    logdir: Annotated[str, IsPath()] = "logs"
    """Folder for runs: samples, checkpoints and TensorBoard logs."""
    run_name: Annotated[str, Field(max_length=200)] | None = None
    """Name of the run for display, also shown in TensorBoard."""
    log_step: Annotated[int, Field(ge=1)] = 25
    """Steps between log entries for loss, learning rate and speed."""


class Settings(Group):
    """All settings of a run, grouped."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    text_encoder: TextEncoderSettings = TextEncoderSettings()
    loss: LossSettings = LossSettings()
    noise: NoiseSettings = NoiseSettings()
    ema: EmaSettings = EmaSettings()
    memory: MemorySettings = MemorySettings()
    sampling: SamplingSettings = SamplingSettings()
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    logging: LoggingSettings = LoggingSettings()

    def optimizer_of(self, part: PartFacts, *, on_card: bool) -> str:
        """The name of a network's optimizer; `on_card` decides the default."""
        own = self.text_encoder.text_encoder_optimizer
        if own and part.is_text_encoder:
            return own
        return self.optimizer.chosen(on_card=on_card)

    def rate_of(self, part: PartFacts) -> float:
        """The learning rate of a network: as set, else the usual one for the method and the optimizer."""
        has_prodigy = self.optimizer_of(part, on_card=False) == "prodigy"
        return self.optimizer.lr_of(part.name, PRODIGY_LR if has_prodigy else DEFAULT_LR[self.model.method])

    def setting_for(self, part: PartFacts, name: str) -> str:
        """The setting that holds for a network: that of text encoders if it is one and this is set, else `name`."""
        own = f"text_encoder_{name}"
        if not part.is_text_encoder or getattr(self.text_encoder, own) is None:
            return name
        return own

    def trained_networks(self, family: FamilyFacts) -> list[PartFacts]:
        """The networks of a model of `family` that are trained."""
        return [family.part(name) for name in self.model.trained_parts(family)]

    @property
    def keeps_best(self) -> bool:
        """Whether a validation that improves saves a checkpoint, of which one is kept."""
        return self.validation.val_split_mode != "none" and self.checkpoint.minutes > 0

    def flat(self) -> dict[str, object]:
        """All settings as one flat mapping, ready for JSON."""
        values: dict[str, object] = {}
        for group in self.model_dump(mode="json").values():
            values |= group
        return values

    @property
    def batches_per_step(self) -> int:
        """Most batches in an optimizer step, of all processes together."""
        return self.data.grad_accum * self.run.num_processes

    @property
    def images_per_step(self) -> int:
        """Most images in an optimizer step, of all processes together."""
        return self.data.batch_size * self.batches_per_step

    def replaced(self, **changes: object) -> Self:
        """A copy with some settings changed, by their flat names; the values are not checked."""
        groups = {}
        for name in type(self).model_fields:
            group = getattr(self, name)
            own = {key: value for key, value in changes.items() if key in type(group).model_fields}
            groups[name] = group.model_copy(update=own) if own else group
        return self.model_copy(update=groups)
