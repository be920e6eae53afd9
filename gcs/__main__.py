"""`python -m gcs`: the agent."""

import sys

from gcs.cli import main

if __name__ == "__main__":
    sys.exit(main())
