"""A plug-in that ends the process at import."""

import sys

sys.exit("this plug-in leaves")
