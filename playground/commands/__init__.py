"""The lab's commands; __main__ adds them to its own."""

from collections.abc import Callable, Sequence

from playground.commands import making, measuring, models

COMMANDS: Sequence[Callable[..., None]] = (
    measuring.drift,
    measuring.grid,
    measuring.accuracy,
    measuring.card,
    making.quantize,
    making.sensitivity,
    models.doctor,
    models.download,
    models.presets,
)
