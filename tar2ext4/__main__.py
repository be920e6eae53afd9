"""`python -m tar2ext4`."""

import sys

from tar2ext4.cli import main

sys.exit(main())
