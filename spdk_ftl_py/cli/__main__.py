"""`python -m spdk_ftl_py.cli`."""

import sys

from .main import main

sys.exit(main())
