"""`python -m parplan.experiments`: the same as `parplan`."""

import sys

from parplan.experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())
