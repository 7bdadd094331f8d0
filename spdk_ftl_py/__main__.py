"""`python -m spdk_ftl_py` is `spdk-ftl`."""

import sys

from .cli.main import main

sys.exit(main())
