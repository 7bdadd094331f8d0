"""``python -m spdk_ftl_py.target``: the same as ``spdk-ftl target``."""

from __future__ import annotations

import argparse
import sys

from ..errors import FtlError
from .command import DESCRIPTION, EPILOG, add_arguments, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spdk_ftl_py.target",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except FtlError as error:
        print(f"spdk-ftl target: {error.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
