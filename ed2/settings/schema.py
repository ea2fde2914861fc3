"""Every setting of the program: name, type, bounds, default and help, each written once.

The command line, the presets, the form in the browser, `docs/settings.md` and the checks are all made from the
classes below. Inside the program settings are grouped (`settings.sampling.sample_steps`); outside they are flat
(`--sample_steps 100`, `{"sample_steps": 100}`), under the names that EveryDream 2 gave them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from ed2.registry import OPTIMIZERS, SCHEDULES

RESOLUTIONS = (256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152, 1280, 1536)
"""The area classes that a user chooses from: a picture is trained at about resolution x resolution pixels."""
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

    choices: tuple[Any, ...]

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


def _safe_name(value: str) -> str:
    if not value.strip(" ._") or any(c in '<>:"/\\|?*' or ord(c) < 32 for c in value) or value[0] in ".-":
        raise ValueError(
            'it names folders and files: letters, digits, "-", "_" and "." only, beginning with a letter or digit'
        )
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


class RunSettings(Group):
    """Run"""

    project_name: Annotated[str, Field(max_length=80), AfterValidator(_safe_name)] = "myproj"
    """Name of the project: the beginning of the run's folder and of its checkpoints."""
    max_epochs: Annotated[int, Field(ge=1)] = 300
    """How often every picture is seen: the amount of training. There are no repeats: 50 repeats x 5 epochs are 250
    epochs."""
    seed: Annotated[int, Field(ge=-1, le=2**31 - 1)] = 555
    """Seed of every random draw; -1 draws one and records it."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Advanced()] = "auto"
    """Where to train: auto (the first card, else the CPU), cpu, cuda or cuda:N."""


class DataSettings(Group):
    """Dataset"""

    data_root: Annotated[tuple[Annotated[str, IsPath()], ...], Field(min_length=1)] = ("input",)
    """Folder of captioned pictures, searched with its sub-folders, or a JSON manifest; may be given several times."""
    resolution: Annotated[int, OneOf(SMALL_RESOLUTIONS + RESOLUTIONS)] = 512
    """Area of training: every picture is scaled to a size of about resolution x resolution pixels in its own shape."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 2
    """Pictures per forward pass: at most a tenth of them all. A larger batch takes a slightly larger learning rate."""
    grad_accum: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches whose gradients are averaged before one optimizer step: a larger batch without the memory."""
    cond_dropout: Annotated[float, Field(ge=0, le=1)] = 0.04
    """Chance that a picture is trained without its caption, which guidance (CFG) relies on."""
    flip_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Chance that a picture is mirrored. Leave at 0 for faces, text and anything that has a left and a right."""
    shuffle_tags: bool = False
    """Put the parts of a caption after its first comma into another order at every visit."""
    keep_tags: Annotated[int, Field(ge=0), Advanced()] = 0
    """With shuffle_tags: so many tags after the main prompt stay where they are."""
    write_schedule: Annotated[bool, Advanced()] = False
    """Write into the run's folder which pictures each step of each epoch is trained on."""
    decode_threads: Annotated[int, Field(ge=0, le=64), Advanced()] = 0
    """Threads that read pictures ahead; 0 chooses. The result does not depend on it."""


class ModelSettings(Group):
    """Model"""

    resume_ckpt: Annotated[str, IsPath()] = ""
    """The model to start from: a diffusers folder, or a checkpoint of a run to continue it; `findlast` is the newest
    one in the logs."""
    weights_only: bool = False
    """Take only the weights of resume_ckpt: a new run, counters at zero, even where the run could be continued."""
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
    """Compute activations twice instead of keeping them: much less memory, a quarter slower. Needed on 12 GB."""
    attn_type: Annotated[Literal["sdp"], Advanced()] = "sdp"
    """How attention is computed; sdp is PyTorch's own."""


class OptimizerSettings(Group):
    """Optimizer"""

    optimizer: Annotated[str, OneOf(tuple(OPTIMIZERS))] | None = None
    """The optimizer; empty is adamw8bit on a card and adamw on a CPU."""
    useadam8bit: bool = False
    """Short for `optimizer adamw8bit`: the state of AdamW in a quarter of the memory."""
    lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of both networks; empty is 1e-6 for the UNet and 5e-7 for the text encoder. Halve it at 768."""
    text_encoder_lr: Annotated[float, Field(gt=0, le=1), Advanced()] | None = None
    """Learning rate of the text encoder alone."""
    lr_scheduler: Annotated[str, OneOf(tuple(SCHEDULES))] = "constant"
    """How the learning rate moves: constant stays, cosine falls to 0 at the end of training."""
    clip_grad_norm: Annotated[float, Field(gt=0), Advanced()] | None = 1.0
    """Largest length of the gradient of a step; longer ones are shortened. Empty turns it off."""

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
    """Where the pictures of the curve loss/val come from: none, a part of data_root that is then not trained on, or
    manual_data_root."""
    auto_split_proportion: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the pictures that automatic keeps for validation."""
    manual_data_root: Annotated[str, IsPath()] | None = None
    """Folder or manifest of captioned pictures to validate with."""
    extra_manual_datasets: tuple[Annotated[str, AfterValidator(_named_folder), IsPath(), Advanced()], ...] = ()
    """More folders to measure, each written name=folder, with a curve loss/name each."""
    stabilize_training_loss: Annotated[bool, Advanced()] = False
    """Measure a share of the training pictures with fixed noise too: the curve loss/train_stabilized."""
    stabilize_split_proportion: Annotated[float, Field(gt=0, lt=1), Advanced()] = 0.15
    """Share of the training pictures that is measured so."""
    every_n_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Validate every so many epochs; 0.25 is four times an epoch."""
    val_seed: Annotated[int, Field(ge=0, le=2**31 - 1), Advanced()] = 555
    """Seed of the choice of pictures and of their noise in validation."""
    val_batch_size: Annotated[int, Field(ge=1, le=256), Advanced()] | None = None
    """Pictures per forward pass in validation; empty is batch_size."""


class CheckpointSettings(Group):
    """Checkpoints"""

    ckpt_every_n_minutes: Annotated[float, Field(ge=0)] | None = None
    """Save every so many minutes; 0 is never; empty is 30, or never when save_every_n_epochs is given."""
    save_every_n_epochs: Annotated[int, Field(ge=0)] | None = None
    """Save after every so many epochs; empty or 0 is never. With thousands of pictures prefer minutes."""
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
