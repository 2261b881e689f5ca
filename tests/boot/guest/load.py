"""New connections to the server on this machine, one after the other in each of 3 threads.

Each is a TLS handshake with a client certificate and one request. Goes on while there is a file `go` in the given
folder, and makes one `answered` at the first answer. Prints, as JSON, what became of them, and how often.
"""

import collections
import http.client
import json
import ssl
import sys
import threading
from pathlib import Path

folder, certificate = Path(sys.argv[1]), sys.argv[2]
context = ssl._create_unverified_context()
context.load_cert_chain(certificate)
outcomes: collections.Counter[str] = collections.Counter()


def connect() -> None:
    while (folder / "go").exists():
        connection = http.client.HTTPSConnection("127.0.0.1", 7373, context=context, timeout=60)
        try:
            connection.request("GET", "/v1/api")
            outcomes[str(connection.getresponse().status)] += 1
            (folder / "answered").touch()
        except (OSError, http.client.HTTPException) as error:
            outcomes[type(error).__name__] += 1
        finally:
            connection.close()


threads = [threading.Thread(target=connect) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(outcomes))
