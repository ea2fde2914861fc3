"""Every setting of the program: name, type, bounds, default and help, each written once.

The command line, the presets, the form in the browser, `docs/settings.md` and the checks are all made from the
classes below. Inside the program settings are grouped (`settings.sampling.sample_steps`); outside they are flat
(`--sample_steps 100`, `{"sample_steps": 100}`), under the names that EveryDream 2 gave them.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from ed2.disk import is_reserved
from ed2.registry import LOSSES, OPTIMIZERS, SCHEDULES

RESOLUTIONS = (256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152, 1280, 1536)
"""The area classes that a user chooses from: an image is trained at about resolution x resolution pixels."""
SMALL_RESOLUTIONS = (64, 128, 192)
"""Area classes for the demo and the tests, whose model is tiny."""


@dataclass(frozen=True)
class IsPath:
    """Marks a setting that holds a file or folder, so that a relative one is counted from the right place."""


@dataclass(frozen=True)
class Advanced:
    """Marks a setting that most runs never need."""


@dataclass(frozen=True)
class OneOf:
    """Allows these values only; the error names the nearest of numbers, and all of names."""

    choices: Collection[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Check the value after pydantic has checked its type."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: Any) -> Any:
        """Return `value` if it is allowed.

        Raises:
            ValueError: with what is allowed.
        """
        if value in self.choices:
            return value
        if isinstance(value, int):
            near = [*[c for c in self.choices if c < value][-1:], *[c for c in self.choices if c > value][:1]]
            raise ValueError(f"the nearest allowed {'are' if len(near) > 1 else 'is'} {' and '.join(map(str, near))}")
        raise ValueError(f"choose one of {', '.join(map(str, self.choices))}")


_MAX_NAME_BYTES = 160
"""File systems allow 255 bytes, and a run's files add some 60."""


def _safe_name(value: str) -> str:
    if not value.strip(" ._") or any(c in '<>:"/\\|?*' or ord(c) < 32 for c in value) or value[0] in ".-":
        raise ValueError(
            'it names folders and files: letters, digits, "-", "_" and "." only, beginning with a letter or digit'
        )
    if is_reserved(value):
        raise ValueError("Windows cannot have folders and files of that name; choose another")
    if len(value.encode()) > _MAX_NAME_BYTES:
        raise ValueError("it names folders and files, which would be too long; choose a shorter one")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise ValueError("choose auto, cpu, cuda, or one card such as cuda:0")
    return value


def _colour(value: str) -> str:
    if not re.fullmatch(r"white|black|grey|#[0-9a-fA-F]{6}", value):
        raise ValueError("choose white, black, grey, or a colour such as #80ff00")
    return value


class Group(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
"""The two numbers of an optimizer that averages."""


class RunSettings(Group):
    """Run"""

    project_name: Annotated[str, Field(max_length=80), AfterValidator(_safe_name)] = "myproj"
    """Name of the project: the beginning of the run's folder and of its checkpoints."""
    max_epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    """How often every image is seen: the amount of training. There are no repeats: 50 repeats x 5 epochs are 250
    epochs."""
    seed: Annotated[int, Field(ge=-1, le=2**31 - 1)] = 555
    """Seed of every random draw; -1 draws one and records it."""
    device: Annotated[str, AfterValidator(_device), Advanced()] = "auto"
    """Where to train: auto (the first card, else the CPU), cpu, cuda or cuda:N."""


class DataSettings(Group):
    """Dataset"""

    data_root: Annotated[tuple[Annotated[str, IsPath()], ...], Field(min_length=1)] = ("input",)
    """Folder of captioned images, searched with its sub-folders, or a JSON manifest; there may be several."""
    resolution: Annotated[int, OneOf(SMALL_RESOLUTIONS + RESOLUTIONS)] = 512
    """Area of training: every image is scaled to a size of about resolution x resolution pixels in its own shape."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 2
    """Images per forward pass: at most a tenth of them all. A larger batch takes a slightly larger learning rate."""
    grad_accum: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches whose gradients are averaged before a step, as of one large batch; from 1 to 2 this takes memory."""
    cond_dropout: Annotated[float, Field(ge=0, le=1)] = 0.04
    """Chance that an image is trained without its caption, which guidance (CFG) relies on."""
    flip_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Chance that an image is mirrored. Leave at 0 for faces, text and anything that has a left and a right."""
    shuffle_tags: bool = False
    """Put the parts of a caption after its first comma into another order at every visit."""
    keep_tags: Annotated[int, Field(ge=0), Advanced()] = 0
    """With shuffle_tags: so many tags after the main prompt stay where they are."""
    alpha_background: Annotated[str, AfterValidator(_colour), Advanced()] = "white"
    """What shows through where an image is transparent: white, black, grey, or a colour such as #80ff00."""
    write_schedule: Annotated[bool, Advanced()] = False
    """Write into the run's folder which images each step of each epoch is trained on."""
    decode_threads: Annotated[int, Field(ge=0, le=64), Advanced()] = 0
    """Threads that read images ahead; 0 chooses. The result does not depend on it."""


class ModelSettings(Group):
    """Model"""

    resume_ckpt: Annotated[str, IsPath()] = ""
    """The model to start from: a diffusers folder, a .safetensors file, or a checkpoint of a run to continue it;
    `findlast` is the newest one in the logs."""
    weights_only: bool = False
    """Take only the weights of resume_ckpt: a new run, counters at zero, even where the run could be continued."""
    model_family: Annotated[Literal["sd1", "sd2", "sdxl"], Advanced()] | None = None
    """The family of a base model that is not on this disk, for planning its memory; told from the file when it is."""
    prediction_type: Annotated[Literal["epsilon", "v_prediction"], Advanced()] | None = None
    """What the model predicts, where it does not say so itself: noise (epsilon) or velocity."""
    disable_unet_training: bool = False
    """Leave the UNet as it is and train the text encoder only."""
    disable_textenc_training: bool = False
    """Leave the text encoder as it is and train the UNet only."""


class MemorySettings(Group):
    """Speed and memory"""

    amp: bool = True
    """Automatic mixed precision: faster and smaller on a card; bf16 where the card has it, else fp16. Off on a CPU."""
    amp_dtype: Annotated[Literal["fp16", "bf16"] | None, Advanced()] = None
    """The format of mixed precision; empty chooses by the card."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: much less memory, a quarter slower. For 12 GB."""
    attn_type: Annotated[Literal["sdp", "slice", "xformers"], Advanced()] = "sdp"
    """How attention is computed: sdp is PyTorch's own and the best; slice is slower and in training takes more memory;
    xformers is an optional part."""
    channels_last: Annotated[bool, Advanced()] = False
    """Keep convolutions' numbers by pixel instead of by channel: on some cards a little faster."""
    torch_compile: Annotated[bool, Advanced()] = False
    """Compile the UNet's transformer blocks: a slow first step for each size of image, then faster ones."""
    deterministic: Annotated[bool, Advanced()] = False
    """Let a card give the same bytes when a run is repeated or resumed, as a CPU does anyway: slower, and without mixed
    precision attention takes more memory. Not with xformers or torch_compile."""


class OptimizerSettings(Group):
    """Optimizer"""

    optimizer: Annotated[str, OneOf(OPTIMIZERS)] | None = None
    """The optimizer; empty is adamw8bit on a card and adamw on a CPU."""
    useadam8bit: bool = False
    """Short for `optimizer adamw8bit`: the state of AdamW in a quarter of the memory."""
    lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of both networks; empty is 1e-6 for the UNet and 5e-7 for the text encoder. Halve it at 768."""
    text_encoder_lr: Annotated[float, Field(gt=0, le=1), Advanced()] | None = None
    """Learning rate of the text encoder alone."""
    lr_scheduler: Annotated[str, OneOf(SCHEDULES)] = "constant"
    """How the learning rate moves: constant stays; linear, cosine and polynomial fall to 0 at the end of training."""
    lr_warmup_steps: Annotated[int, Field(ge=0), Advanced()] | None = None
    """Optimizer steps over which the learning rate rises at the beginning; empty is none for constant and a fiftieth of
    the run for the others."""
    lr_decay_steps: Annotated[int, Field(ge=0), Advanced()] | None = None
    """The optimizer step at which a falling learning rate reaches 0; empty or 0 is the end of training."""
    betas: Annotated[Betas, Advanced()] | None = None
    """How much the averages of the gradient and of its square remember; empty is 0.9 0.999, for Lion 0.9 0.99."""
    epsilon: Annotated[float, Field(gt=0, le=1), Advanced()] = 1e-8
    """Added to the root of the second average, so that nothing is divided by zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1), Advanced()] = 0.01
    """How strongly weights are pulled towards 0, times the learning rate. Lion takes about ten times as much."""
    clip_grad_norm: Annotated[float, Field(gt=0), Advanced()] | None = 1.0
    """Largest length of the gradient of a step; longer ones are shortened. Empty turns it off."""

    def chosen(self, *, on_card: bool) -> str:
        """The optimizer of both networks: the one set, else adamw8bit on a card and adamw on a CPU."""
        name = "adamw8bit" if self.useadam8bit else self.optimizer
        return name or ("adamw8bit" if on_card else "adamw")

    @property
    def unet_lr(self) -> float:
        """The UNet's learning rate."""
        return self.lr if self.lr is not None else 1e-6

    @property
    def te_lr(self) -> float:
        """The text encoder's learning rate: its own, else the common one, else 5e-7."""
        if self.text_encoder_lr is not None:
            return self.text_encoder_lr
        return self.lr if self.lr is not None else 5e-7


class TextEncoderSettings(Group):
    """Text encoder"""

    text_encoder_optimizer: Annotated[str, OneOf(OPTIMIZERS), Advanced()] | None = None
    """The text encoder's optimizer; empty is the same as the UNet's, as with all settings that begin so."""
    text_encoder_lr_scheduler: Annotated[str, OneOf(SCHEDULES), Advanced()] | None = None
    """How the text encoder's learning rate moves."""
    text_encoder_lr_warmup_steps: Annotated[int, Field(ge=0), Advanced()] | None = None
    """Optimizer steps over which the text encoder's learning rate rises."""
    text_encoder_lr_decay_steps: Annotated[int, Field(ge=0), Advanced()] | None = None
    """The optimizer step at which the text encoder's falling learning rate reaches 0."""
    text_encoder_betas: Annotated[Betas, Advanced()] | None = None
    """How much the averages of the text encoder's optimizer remember."""
    text_encoder_epsilon: Annotated[float, Field(gt=0, le=1), Advanced()] | None = None
    """Added to the root of the second average, in the text encoder's optimizer."""
    text_encoder_weight_decay: Annotated[float, Field(ge=0, le=1), Advanced()] | None = None
    """How strongly the text encoder's weights are pulled towards 0."""
    unfreeze_last_n_layers: Annotated[int, Field(ge=1), Advanced()] | None = None
    """Train only so many of the last layers of the text encoder, with its final layer norm and without its embeddings;
    empty trains all. For SD 2.x: 2."""
    freeze_embeddings: Annotated[bool, Advanced()] = False
    """Leave the text encoder's embeddings of tokens and positions as they are."""
    freeze_final_layer_norm: Annotated[bool, Advanced()] = False
    """Leave the text encoder's final layer norm as it is."""


class LossSettings(Group):
    """Loss"""

    loss_type: Annotated[str, OneOf(LOSSES)] = "mse"
    """How the error is measured: mse; huber, which single large errors pull less; mse_huber is mse at timestep 0 and
    huber at the last, huber_mse the reverse."""
    min_snr_gamma: Annotated[float, Field(gt=0), Advanced()] | None = None
    """Bound on the signal-to-noise ratio as a weight (arXiv:2303.09556): timesteps of little noise count less. 5 is
    usual; empty turns it off."""
    timestep_start: Annotated[int, Field(ge=0, le=999), Advanced()] = 0
    """The first timestep that is trained."""
    timestep_end: Annotated[int, Field(ge=1, le=1000), Advanced()] = 1000
    """One past the last timestep that is trained; 1000 is most noise."""


class NoiseSettings(Group):
    """Noise"""

    zero_frequency_noise_ratio: Annotated[float, Field(ge=0, le=1), Advanced()] = 0.0
    """Offset noise: lets a model learn darker and brighter images; 0.02 is a usual value."""
    pyramid_noise_discount: Annotated[float, Field(ge=0, le=1), Advanced()] | None = None
    """Mixes coarser noise in, each coarser level weighing so much of the one before; 0.03 is a usual value."""
    enable_zero_terminal_snr: Annotated[bool, Advanced()] = False
    """Train and sample from pure noise (arXiv:2305.08891): true blacks and whites. For models that predict v."""
    embedding_perturbation: Annotated[float, Field(ge=0), Advanced()] = 0.0
    """Noise on the caption's embedding (arXiv:2405.20494): less learning by heart; 1 is a usual value."""
    clip_skip: Annotated[int, Field(ge=0, le=4), Advanced()] = 0
    """Take the text encoder's output so many layers before its end; 0 and 1 are the end."""


class EmaSettings(Group):
    """Average of the weights (EMA)"""

    ema_decay_rate: Annotated[float, Field(gt=0, lt=1), Advanced()] | None = None
    """Turns the average on: the share of it that stays at each update, such as 0.99; saved beside the weights as
    `_ema`."""
    ema_strength_target: Annotated[float, Field(gt=0, lt=1), Advanced()] | None = None
    """Turns the average on by the share of the first weights that is left in it at the end of training."""
    ema_update_interval: Annotated[int, Field(ge=1), Advanced()] = 500
    """Optimizer steps between two updates of the average."""
    ema_device: Annotated[Literal["cpu", "cuda"], Advanced()] = "cpu"
    """Where the average is kept: cpu costs no memory of the card, cuda is faster."""
    ema_sample_nonema_model: Annotated[bool, Advanced()] = False
    """Draw samples with the weights as trained; alone, instead of with their average."""
    ema_sample_ema_model: Annotated[bool, Advanced()] = False
    """Draw samples with the average, which is the default when it is on; together with the other: both."""
    ema_resume_model: Annotated[str, IsPath(), Advanced()] | None = None
    """Begin the average from the weights in this diffusers folder; `findlast` is the newest average in the logs."""

    @property
    def is_on(self) -> bool:
        """Whether an average is kept."""
        return self.ema_decay_rate is not None or self.ema_strength_target is not None

    @property
    def samples_average(self) -> bool:
        """Whether samples are drawn with the average."""
        return self.is_on and (self.ema_sample_ema_model or not self.ema_sample_nonema_model)

    @property
    def samples_trained(self) -> bool:
        """Whether samples are drawn with the weights as trained."""
        return self.ema_sample_nonema_model or not self.is_on


class SamplingSettings(Group):
    """Sampling"""

    sample_prompts: Annotated[str, IsPath()] = "sample_prompts.txt"
    """Text file with one prompt a line; missing or empty: no samples. Read again before each sampling."""
    sample_steps: Annotated[int, Field(ge=1)] = 250
    """Make samples every so many optimizer steps, besides before the first and after the last."""


def _named_folder(value: str) -> str:
    name, equals, folder = value.partition("=")
    if not equals or not folder or not name or any(c in name for c in "/\\\t\n"):
        raise ValueError("it is written name=folder")
    if name in ("val", "train_stabilized", "log_step", "epoch"):
        raise ValueError(f"the curve {name} is taken by another measure")
    return value


class ValidationSettings(Group):
    """Validation"""

    val_split_mode: Literal["none", "automatic", "manual"] = "none"
    """Where the images of the curve loss/val come from: none, a part of data_root that is then not trained on, or
    manual_data_root."""
    auto_split_proportion: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the images that automatic keeps for validation."""
    manual_data_root: Annotated[str, IsPath()] | None = None
    """Folder or manifest of captioned images to validate with."""
    extra_manual_datasets: tuple[Annotated[str, AfterValidator(_named_folder), IsPath(), Advanced()], ...] = ()
    """More folders to measure, each written name=folder, with a curve loss/name each."""
    stabilize_training_loss: Annotated[bool, Advanced()] = False
    """Measure a share of the training images with fixed noise too: the curve loss/train_stabilized."""
    stabilize_split_proportion: Annotated[float, Field(gt=0, lt=1), Advanced()] = 0.15
    """Share of the training images that is measured so."""
    every_n_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Validate every so many epochs; 0.25 is four times an epoch."""
    val_seed: Annotated[int, Field(ge=0, le=2**31 - 1), Advanced()] = 555
    """Seed of the choice of images and of their noise in validation."""
    val_batch_size: Annotated[int, Field(ge=1, le=256), Advanced()] | None = None
    """Images per forward pass in validation; empty is batch_size."""


class CheckpointSettings(Group):
    """Checkpoints"""

    ckpt_every_n_minutes: Annotated[float, Field(ge=0)] | None = None
    """Save every so many minutes; 0 is never; empty is 30, or never where it is saved by epochs."""
    save_every_n_epochs: Annotated[int, Field(ge=0)] | None = None
    """Save after every so many epochs; empty or 0 is never. With thousands of images prefer minutes."""
    save_ckpts_from_n_epochs: Annotated[int, Field(ge=0), Advanced()] = 0
    """No saving by epochs before this many are done."""
    save_ckpt_dir: Annotated[str, IsPath()] | None = None
    """Folder of the single files for a webui; empty is the program's folder."""
    no_save_ckpt: bool = False
    """Write no single files, only the diffusers folders."""
    ckpt_format: Annotated[Literal["safetensors", "ckpt"], Advanced()] = "safetensors"
    """Container of the single file; the names inside are the same."""
    save_full_precision: Annotated[bool, Advanced()] = False
    """Write the single file in fp32 instead of fp16: twice the size, no use for a webui."""
    keep_last: Annotated[int, Field(ge=2)] | None = None
    """Keep so many of the newest checkpoints with their single files, the best by validation loss, and those marked
    with Keep; empty keeps all."""
    no_prepend_last: Annotated[bool, Advanced()] = False
    """Leave out `last-` before the name of the final checkpoint."""

    @property
    def minutes(self) -> float:
        """Minutes between two saves, 0 for never."""
        if self.ckpt_every_n_minutes is not None:
            return self.ckpt_every_n_minutes
        return 0.0 if self.save_every_n_epochs else 30.0


class LoggingSettings(Group):
    """Logging"""

    logdir: Annotated[str, IsPath()] = "logs"
    """Folder of the runs: samples, checkpoints, TensorBoard files."""
    run_name: Annotated[str, Field(max_length=200), Advanced()] | None = None
    """A name of the run for people: it stands among its settings, in TensorBoard too."""
    log_step: Annotated[int, Field(ge=1)] = 25
    """Write loss, learning rate and speed every so many optimizer steps."""


class Settings(Group):
    """All settings of a run, grouped."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
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

    def flat(self) -> dict[str, object]:
        """All settings as one flat mapping, ready for JSON."""
        return {name: value for group in self.model_dump(mode="json").values() for name, value in group.items()}

    def replaced(self, **changes: object) -> Self:
        """A copy with some settings, named flat, changed; the values are taken as valid."""
        groups = {}
        for name in type(self).model_fields:
            group = getattr(self, name)
            own = {key: value for key, value in changes.items() if key in type(group).model_fields}
            groups[name] = group.model_copy(update=own) if own else group
        return self.model_copy(update=groups)
