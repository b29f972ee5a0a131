"""`python -m llcert`."""

import sys

from llcert.cli import main

if __name__ == "__main__":
    sys.exit(main())
