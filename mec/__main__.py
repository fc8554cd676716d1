"""`python -m mec`, for torchrun."""

import sys

from mec.cli import main

sys.exit(main())
