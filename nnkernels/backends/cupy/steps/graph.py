"""A list of calls as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nnkernels.backends.cupy.gpu import Gpu


def capture(gpu: Gpu, stream: Any, calls: Sequence[Callable[[], None]]) -> Any | None:
    """The graph of ``calls``, which must have run before: kernels are loaded at their first run.

    Args:
        gpu: the device; where the calls cannot be captured its layer ``graph`` is switched off.
        stream: not the default one; nothing else may use it meanwhile.
        calls: what a launch of the graph does.

    Returns:
        The graph, to be launched on any stream, or None.
    """
    try:
        return _captured(stream, calls)
    except Exception as error:  # whatever CUDA says of it, the calls themselves go on working
        gpu.layers.switch_off("graph", f"a step was not captured: {type(error).__name__}: {error}")
        return None


def _captured(stream: Any, calls: Sequence[Callable[[], None]]) -> Any:
    with stream:
        stream.begin_capture()
        try:
            for call in calls:
                call()
        except BaseException:
            _abandon(stream)
            raise
        return stream.end_capture()


def _abandon(stream: Any) -> None:
    """Leave capture mode after an error, which is the one to report."""
    try:
        stream.end_capture()
    except Exception:  # CUDA says again that the capture failed
        return
