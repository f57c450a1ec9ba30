"""The web app: read the settings and serve the page. docs/operate/settings.md lists the settings."""

from __future__ import annotations

import sys

from playground.errors import BadSettings
from playground.settings import Settings
from playground.web.server import serve


def main() -> None:
    try:
        settings = Settings.read()
    except BadSettings as error:
        print(f"Nothing was started. {error}", file=sys.stderr)
        sys.exit(2)
    serve(settings)


if __name__ == "__main__":
    main()
