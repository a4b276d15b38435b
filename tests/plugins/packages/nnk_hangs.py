"""A plug-in whose import takes an hour."""

import time

time.sleep(3600)
