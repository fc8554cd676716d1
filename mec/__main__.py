"""`python -m mec`, for torchrun."""

import sys

from mec.cli.commands import main

sys.exit(main())
