"""`python -m fedthings` is the `fedthings` program."""

import sys

from fedthings.cli import main

sys.exit(main())
