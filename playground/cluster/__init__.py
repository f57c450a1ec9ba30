"""Other machines, on Ray. Imported only where the setting `cluster` is set."""

import os

# Ray reads these once, when it is imported: a token to authenticate, and no statistics of use. What is set stays.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
