"""``python -m optdsl``."""

import sys

from optdsl.cli import main

sys.exit(main())
