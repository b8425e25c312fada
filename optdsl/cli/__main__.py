"""``python -m optdsl.cli``."""

import sys

from optdsl.cli import main

sys.exit(main())
