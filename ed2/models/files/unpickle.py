"""The tensors of a PyTorch `.ckpt`, written as safetensors in a separate process.

python -m ed2.models.files.unpickle FROM [TO]

Without TO the shapes of the tensors and the metadata are printed as JSON.

A `.ckpt` is a pickle, which can run any code. PyTorch's reader with `weights_only` builds tensors and plain values and
runs nothing else; since it has had holes (CVE-2025-32434, CVE-2026-24747), it runs here, where memory is limited and
nothing can be started, connected to, or written except the one file. What trainers leave beside the weights
(callbacks, numpy numbers) becomes an empty object; a file that asks for anything else is not opened.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

REFUSED = 3
"""Exit code if a file is not converted; the reason is on stdout."""
SAFETENSORS = ".safetensors"
"""A file of PyTorch with this name is given to it opened, since it takes the name for the format."""
EXTRA_BYTES = 2 << 30
MAX_TENSORS = 20_000
LEFT_BY_TRAINERS = re.compile(r"(pytorch_lightning|lightning|lightning_fabric|numpy|omegaconf|_codecs)\.[\w.]+")
AVERAGE = "model_ema."
"""Prefix of a moving average, which a model to train does not need."""
FORBIDDEN = (
    *("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile"),
    *("os.remove", "os.rename", "os.chmod", "os.rmdir", "os.link", "os.symlink", "shutil."),
    *("socket.", "ctypes.", "webbrowser."),
)
"""Prefixes of Python's audit events that never occur when weights are read."""
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Ignored:
    """Stands in for an object of a trainer; keeps nothing."""

    def __init__(self, *values: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def main(source: Path, target: Path | None) -> None:
    """Convert or list, or print why not and exit with `REFUSED`."""
    from ed2.models.files.tensor_file import write_single_file

    _limit_memory(4 * source.stat().st_size + EXTRA_BYTES)
    content = _loaded(source, is_listed=target is None)
    if target is None:
        shapes = {name: list(tensor.shape) for name, tensor in _tensors(content).items()}
        sys.stdout.write(json.dumps({"shapes": shapes, "metadata": _metadata(content)}))
        return
    write_single_file(target, _tensors(content), {**_metadata(content), "format": "pt"})


def _loaded(source: Path, *, is_listed: bool) -> Any:
    """What is in a file, without running anything; to be listed only, its tensors are not read. May refuse it."""
    import torch

    given: Any = source.open("rb") if source.suffix.lower() == SAFETENSORS else source
    strange = torch.serialization.get_unsafe_globals_in_checkpoint(given)
    if given is not source:
        given.seek(0)
    code = [name for name in strange if not LEFT_BY_TRAINERS.fullmatch(name)]
    if code:
        _refuse(f"it asks to run {', '.join(sorted(code)[:3])}, which weights never need: treat it as an attack")
    hook = AuditHook()
    sys.addaudithook(hook)
    with torch.serialization.safe_globals([(Ignored, name) for name in strange]):
        try:
            content = torch.load(given, weights_only=True, map_location="cpu", mmap=is_listed and given is source)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can fail in many ways
            _refuse(f"PyTorch cannot read it ({' '.join(str(error).split())[:200]})")
    hook.is_on = False
    return content


def _metadata(content: Any) -> dict[str, str]:
    about = content.get("metadata") if isinstance(content, Mapping) else None
    if not isinstance(about, dict):
        return {}
    return {k: v for k, v in about.items() if isinstance(v, str)}


def _tensors(content: Any) -> dict[str, Any]:
    """The model's tensors; refuses any that claims more memory than it has in the file."""
    import torch

    inner = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}
    tensors = {str(name): tensor for name, tensor in tensors.items() if not str(name).startswith(AVERAGE)}
    if not tensors:
        _refuse("it contains no model weights")
    if len(tensors) > MAX_TENSORS:
        _refuse(f"it has {len(tensors):,} tensors, more than any model")
    for name, tensor in tensors.items():
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize or tensor.is_sparse:
            _refuse(f"{name[:80]} claims {tensor.numel():,} numbers that are not in the file")
    return tensors


class AuditHook:
    """While active, raises an error for anything that starts a process, connects or writes."""

    def __init__(self) -> None:
        self.is_on = True

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """Check what Python is about to do."""
        if self.is_on and (event.startswith(FORBIDDEN) or (event == "open" and _writes(arguments))):
            raise PermissionError(f"a model file tried {event}")


def _writes(arguments: tuple[object, ...]) -> bool:
    """Whether an audited `open` of path, mode and flags writes; os.open gives no mode."""
    mode, flags = (*arguments[1:], None, None)[:2]
    by_mode = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return by_mode or (isinstance(flags, int) and bool(flags & WRITING_FLAGS))


def _limit_memory(more_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, used + more_bytes))


def _refuse(reason: str) -> NoReturn:
    sys.stdout.write(json.dumps({"reason": reason}))
    sys.exit(REFUSED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None)
