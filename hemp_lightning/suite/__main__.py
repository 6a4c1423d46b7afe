"""`python -m hemp_lightning.suite`: the same as `hemp run`.

Training on several devices starts this file by its path, whose folder is then no place to look
for modules.
"""

from __future__ import annotations

import sys

if not __package__:
    del sys.path[0]

from hemp_lightning.suite.command import main

if __name__ == "__main__":
    sys.exit(main())
