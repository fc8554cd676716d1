"""`python -m mec`, for torchrun."""

import sys

from mec.cli.main import main

sys.exit(main())
