"""tox loads this file by its name. It lets tox find the interpreters that pyenv keeps, which are not on PATH.

It leaves out the smoke test with the interpreter that runs tox: the whole suite runs with that one anyway.
"""

import os
import sys
from pathlib import Path

versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
interpreters = [str(path) for path in sorted(versions.glob("3.1?.*/bin"))]
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *interpreters])

if not any(argument.startswith("-e") for argument in sys.argv[1:]):
    os.environ.setdefault("TOX_SKIP_ENV", f"smoke-py3{sys.version_info.minor}$")
