"""tox loads this file by its name. It lets tox find the interpreters that pyenv keeps, which are not on PATH.

It leaves out the smoke test with the interpreter that runs tox, unless -e asks for it (TOXENV does not): the whole
suite runs with that one anyway.

And it tells uv, which installs what the environments need and knows nothing of pip's configuration, where pip looks for
packages. What is said to uv itself (UV_DEFAULT_INDEX and so on) is left as it is.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
interpreters = [str(path) for path in sorted(versions.glob("3.1?.*/bin"))]
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *interpreters])

if not any(argument.startswith("-e") for argument in sys.argv[1:]):
    os.environ.setdefault("TOX_SKIP_ENV", f"smoke-py3{sys.version_info.minor}$")

# An option of pip: uv's variable, what stands between several values of it.
UV_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
OLDER_VARIABLES = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
"""uv's former names of them, which lose to these."""


def pip_options() -> dict[str, list[str]]:
    """Of pip's configuration files and of PIP_*; nothing where there is no pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    options = {}
    # "SECTION.NAME='VALUE'", pip's own order of precedence: that of PIP_* wins over that of install, over global's.
    for section in ("global.", "install.", ":env:."):
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                options[name[len(section) :]] = str(ast.literal_eval(value)).split()
    return options


def is_there(place: str) -> bool:
    """pip passes over a folder that is not there; uv would fail."""
    url = urlsplit(place)
    return Path(url.path).exists() if url.scheme == "file" or place.startswith("/") else True


for option, values in pip_options().items():
    variable, separator = UV_VARIABLES.get(option, ("", ""))
    places = [value for value in values if is_there(value)]
    if not variable or not places or variable in os.environ or OLDER_VARIABLES.get(variable, "") in os.environ:
        continue
    os.environ[variable] = separator.join(places)
    if variable == "UV_INDEX":
        # As pip does it: the newest release of all indexes.
        os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
# An interpreter that is not there is skipped, not downloaded.
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
