"""`python -m bench.next_item split|run --help`."""

import sys

from bench.next_item.command import main

sys.exit(main())
