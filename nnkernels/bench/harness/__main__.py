"""Starts a worker: ``python harness/__main__.py REQUESTS REPLIES LIFE SYS_PATH WORKLOADS``.

The first three arguments are the numbers of inherited pipe ends, the others JSON: ``sys.path`` of
the parent, and the files with workloads of users that it has added. The package is loaded from its
own folder, so that it can drive another nnkernels than the one it came with: the one that
``SYS_PATH`` leads to.
"""

import importlib.util
import json
import sys
from pathlib import Path

NAME = "nnkernels_harness"


def main() -> None:
    """Load the package and serve."""
    *pipes, path, workloads = sys.argv[1:]
    sys.path[:] = json.loads(path)
    folder = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
    importlib.import_module(f"{NAME}.worker").run(*map(int, pipes), json.loads(workloads))


if __name__ == "__main__":
    main()
