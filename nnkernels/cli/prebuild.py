"""``nnkernels prebuild``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnkernels.cli._app import INCOMPLETE
from nnkernels.errors import BackendUnavailableError, InputError

if TYPE_CHECKING:
    from nnkernels.backends.cupy.compiling.code_cache import CodeCache
    from nnkernels.backends.cupy.compiling.manifest import Entry

REMEDY = "pip install 'nnkernels[cuda13]', or 'nnkernels[cuda12]' for drivers before 580"


def command(
    arch: Annotated[
        list[str] | None,
        typer.Option(
            "--arch", metavar="NAME", help="Compile for this, like sm_90; may be repeated."
        ),
    ] = None,
    storage: Annotated[
        list[str] | None,
        typer.Option("--storage", metavar="TYPE", help="Only arrays of this type. Default: all."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Put the files there, not in the cache."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Only list the architectures that NVRTC knows.")
    ] = False,
) -> None:
    """Compile the kernels of backend cupy now, without a GPU, for example into an image.

    Needs CuPy and NVRTC. The files go where the backend looks for them, your cache folder
    (XDG_CACHE_HOME moves it); manifest.json beside them has their hashes, which are the same on
    every machine with this NVRTC. Exit code 3 when NVRTC is not installed, or when the cache folder
    cannot be written.

    \b
    Examples:
      nnkernels prebuild --list
      nnkernels prebuild --arch sm_90
      nnkernels prebuild --arch sm_80 --arch sm_90 --storage float32
    """
    from nnkernels.backends.cupy import sources
    from nnkernels.backends.cupy.compiling import compiler
    from nnkernels.errors import unknown

    nvrtc = _nvrtc()
    if show:
        for capability in compiler.supported(nvrtc):
            typer.echo(f"sm_{capability}")
        return
    if not arch:
        raise InputError("prebuild: which GPU? --arch sm_90, for example; --list shows all")
    targets = [compiler.parse_target(nvrtc, name) for name in dict.fromkeys(arch)]
    storages = list(dict.fromkeys(storage or sources.STORAGES))
    for name in storages:
        if name not in sources.STORAGES:
            raise unknown("storage type", name, sources.STORAGES)
    _build(nvrtc, _cache(output), targets, storages)


def _nvrtc() -> Any:
    """CuPy's NVRTC.

    Raises:
        BackendUnavailableError: CuPy or NVRTC is missing.
    """
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # CuPy's own message depends on what is missing
        raise BackendUnavailableError(
            f"prebuild needs CuPy and NVRTC, which do not load ({type(error).__name__}): {REMEDY}"
        ) from error
    return nvrtc


def _cache(output: Path | None) -> CodeCache:
    from nnkernels.backends.cupy.compiling.code_cache import CodeCache

    return CodeCache(None if output is None else output.absolute())


def _build(nvrtc: Any, cache: CodeCache, targets: Sequence[Any], storages: Sequence[str]) -> None:
    import warnings

    from nnkernels.backends.cupy import sources
    from nnkernels.backends.cupy.compiling import manifest
    from nnkernels.backends.cupy.compiling.code_cache import CodeCacheWarning
    from nnkernels.cli._render import Bar

    total = len(targets) * len(sources.module_names()) * len(storages)
    entries: list[Entry] = []
    with warnings.catch_warnings(record=True) as caught, Bar(total) as bar:
        warnings.simplefilter("always", CodeCacheWarning)
        for entry in manifest.build_all(nvrtc, cache, targets, storages):
            entries.append(entry)
            bar.show(f"{entry.module} {entry.storage} {entry.target}", len(entries))
    _print_table(entries)
    for warning in caught:
        typer.echo(f"nnkernels: prebuild: {warning.message}", err=True)
    if not cache.lasting:
        raise typer.Exit(INCOMPLETE)
    typer.echo(f"kept in {cache.folder}; hashes in {manifest.write(cache.folder, nvrtc, entries)}")


def _print_table(entries: Iterable[Entry]) -> None:
    from nnkernels.cli._render import duration, stdout, table

    columns = [(name, "left", None) for name in ("module", "storage", "for")]
    rows = table(
        *columns, ("bytes", "right", None), ("taken", "right", None), ("sha256", "left", 16)
    )
    for each in entries:
        taken = duration(each.seconds) if each.seconds else "known"
        rows.add_row(
            each.module, each.storage, each.target, f"{each.size:,}", taken, each.sha256[:16]
        )
    stdout().print(rows)
