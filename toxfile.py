"""Lets tox find the interpreters that pyenv keeps, which are not on PATH (tox loads this file by its name)."""

import os
from pathlib import Path

versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
interpreters = [str(path) for path in sorted(versions.glob("3.1?.*/bin"))]
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *interpreters])
