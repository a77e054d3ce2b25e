"""What every server of this package holds to: by which names this machine may be asked for, what every answer says."""

import re

#: Names of this machine, with any port (one may be forwarded by ssh). Another site's name that leads here is refused,
#: or its pages could ask the server, and read what it says.
NAMES = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
#: Headers of every answer; each server adds its policy of what a page may load.
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
