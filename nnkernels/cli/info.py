"""``nnkernels info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nnkernels.bench.results import Blas, Gpu

EXTRAS = {
    "numba": ("numba",),
    "report": ("matplotlib", "jinja2", "junitparser"),
    "history": ("ruptures",),
    "nvml": ("nvidia-ml-py",),
    "sklearn": ("scikit-learn",),
    "peers": ("torch", "jax", "scikit-learn", "numba", "threadpoolctl"),
}
"""Optional dependencies by the extra that brings them.

Not those of a GPU, of which one only may be installed: the backend itself says which.
"""


def command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show this machine, its BLAS, the versions, and which backends work and why not.

    \b
    Examples:
      nnkernels info
      nnkernels info --json
    """
    facts = gather()
    from nnkernels.cli._render import json_text, print_wrapped

    if json:
        typer.echo(json_text(facts))
        return
    for line in facts_in_lines(facts):
        print_wrapped(line, indent=15 if line.startswith(" ") else 10)


def gather() -> dict[str, Any]:
    """Everything that ``info`` shows."""
    import nnkernels
    from nnkernels import plugins
    from nnkernels.bench import machine

    env = machine.environment()
    backends = plugins.availability()
    return {
        "version": nnkernels.__version__,
        "machine": machine.identity(),
        "load": machine.load(),
        "env": env,
        "backends": {n: r and machine.scrub(r) for n, r in backends.items()},
        "devices": {
            name: plugins.load(name).device.describe()
            for name in plugins.builtin_names()
            if backends.get(name, "") is None and not plugins.on_host(name)
        },
        "extras": {
            extra: {name: machine.installed(name) for name in names}
            for extra, names in EXTRAS.items()
        },
        "warnings": machine.warnings(env),
    }


def facts_in_lines(facts: dict[str, Any], *, brief: bool = False) -> list[str]:
    """What :func:`gather` found, for people; ``brief`` is the machine alone."""
    identity = facts["machine"]
    one_minute = facts["load"][0]
    head = [
        f"nnkernels {facts['version']}  Python {identity.python}  NumPy {identity.numpy}",
        f"CPU       {identity.cpu}, {identity.arch}, {identity.cores_usable} usable, "
        f"load {one_minute:.2f}",
        f"vectors   {' '.join(identity.isa) or 'unknown'}",
        f"memory    {identity.mem_bytes / 2**30:.1f} GiB{_cache(identity.l3_bytes)}",
        f"system    {identity.os}{_virt(identity.virt)}",
        *(f"GPU       {_gpu(gpu)}" for gpu in identity.gpus),
        f"BLAS      {_blas(identity.blas)}",
    ]
    if brief:
        return head
    return [
        *head,
        *(f"  WARN    {line}" for line in facts["warnings"]),
        *(f"  {name}={value}" for name, value in facts["env"].items()),
        "backends",
        *(f"  {name:<12} {reason or 'available'}" for name, reason in facts["backends"].items()),
        *(f"  {name:<12} {_facts(found)}" for name, found in facts["devices"].items()),
        "extras",
        *(f"  {extra:<12} {_extra(extra, found)}" for extra, found in facts["extras"].items()),
    ]


def _gpu(gpu: Gpu) -> str:
    return (
        f"{gpu.name}, {gpu.mem_bytes / 2**30:.0f} GiB, compute capability {gpu.cc}, driver "
        f"{gpu.driver or 'unknown'}"
    )


def _facts(found: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in found.items())


def _cache(nbytes: int | None) -> str:
    return f", last-level cache {nbytes / 2**20:.0f} MiB" if nbytes else ""


def _virt(kind: str | None) -> str:
    return f" ({kind})" if kind not in (None, "none") else ""


def _blas(blas: Blas | None) -> str:
    if blas is None:
        return "not recognised"
    return (
        f"{blas.vendor} {blas.version or ''}, kernel {blas.kernel or 'unknown'}, "
        f"{blas.threads} threads ({blas.layer or 'unknown layer'})"
    )


def _extra(extra: str, found: dict[str, str | None]) -> str:
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return f"{', '.join(missing)} missing: pip install 'nnkernels[{extra}]'"
    return ", ".join(f"{name} {version}" for name, version in found.items())
