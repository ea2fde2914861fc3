"""What the start of a training loads."""

import subprocess
import sys

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
