"""``python -m uvm``."""

import sys

from uvm.cli import main

sys.exit(main())
