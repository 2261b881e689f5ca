"""The health check of the container image: whether the server in this container can do its work.

`python -I health.py [PORT]` asks /v1/ready and exits 0 if the answer is 200; else it says in one line why not, and
exits 1. It has no credentials, so the config file has to open that route: `api: {/v1/ready: {skip_auth: true}}`.
Nothing but the standard library is imported, as this runs twice a minute.
"""

from __future__ import annotations

import http.client
import ssl
import sys

TIMEOUT = 10  # seconds for each read


def main() -> str | None:
    """What is wrong; None if nothing is."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 7373
    # Who the server is need not be asked within its own container, and its certificate need not name 127.0.0.1.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)
    try:
        connection.request("GET", "/v1/ready")
        answer = connection.getresponse()
        said = answer.read(1000).decode(errors="replace").strip()
    except ssl.SSLError as error:
        return f"no TLS connection: {error.reason}; is skip_auth of /v1/ready true in the config file?"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"status {answer.status}: {said}"


if __name__ == "__main__":
    sys.exit(main())
