"""What the start of a training loads."""

import subprocess
import sys
from pathlib import Path

import torch

from ed2.models.compute import choose_attention
from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.settings.files import PROGRAM_DIR

LOADED = """
import sys
from ed2.models.compute import quiet_libraries
quiet_libraries()
import ed2.app.run
print([name for name in ("bitsandbytes", "peft") if name in sys.modules], "diffusers" in sys.modules)
import bitsandbytes, peft
print(bitsandbytes.optim.AdamW8bit.__name__, peft.LoraConfig.__name__)
"""


def test_optional_libraries_are_loaded_only_by_what_uses_them() -> None:
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, cwd=PROGRAM_DIR, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[] True", "AdamW8bit LoraConfig"], done.stderr


def test_a_gpu_never_trains_with_the_attention_of_cudnn(sd1: Path) -> None:
    cpu = torch.device("cpu")
    model = load(open_folder(sd1), trained=["unet"], device=cpu, frozen_dtype=torch.float32)
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert choose_attention(model, "sdp", cpu) == ""
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert choose_attention(model, "sdp", torch.device("cuda")) == ""  # asks nothing of the GPU
    assert not torch.backends.cuda.cudnn_sdp_enabled()
