"""A client of the server on this machine: uses a key, as the admin and as a stranger. Prints, as JSON, what it saw."""

import contextlib
import json
import os

from kes.client import Client, KeyExists, ServerError, Settings

with Client(Settings.from_environment(insecure=True)) as client:
    with contextlib.suppress(KeyExists):
        client.create_key("exchange")
    made = client.generate_key("exchange", context=b"context")
    assert client.decrypt("exchange", made.ciphertext, b"context") == made.plaintext
    described = client.describe_key("exchange")
    state = client.status()
    keys = client.list_keys("exchange")
with Client(Settings("127.0.0.1:7373", insecure=True, api_key=os.environ["STRANGER"])) as client:
    try:
        client.create_key("stranger")
        refusal = 0
    except ServerError as error:
        refusal = error.status
print(json.dumps({"algorithm": described.algorithm, "keys": keys, "cpus": state.num_cpu, "refusal": refusal}))
