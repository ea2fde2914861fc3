"""What a check forecasts for a card that is not here."""

from ed2.app.checks.check import run_check
from tests.runs import Values


def test_the_disk_forecast_uses_the_optimizer_of_the_planned_gpu(values: Values) -> None:
    sd1 = {**values, "resume_ckpt": ""}

    def bytes_of(vram_gb: float | None = None, **more: object) -> int:
        told = run_check({**sd1, **more}, None, quiet=True, vram_gb=vram_gb).as_object()
        return int(told["disk"]["checkpoint_bytes"])

    assert bytes_of(24) == bytes_of(useadam8bit=True) < bytes_of(optimizer="adamw") == bytes_of(24, optimizer="adamw")
