"""`python -m akt_lab.commands`, where the script `akt-lab` is not on the path."""

import sys

from akt_lab.commands import main

sys.exit(main())
