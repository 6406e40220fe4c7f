"""``python -m esrm`` is the command line, as ``esrm`` is."""

import sys

from esrm.cli import main

sys.exit(main())
