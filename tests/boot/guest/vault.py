"""Sets up the OpenBao on this machine: a K/V engine, and an AppRole for it, whose IDs are printed, as JSON."""

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any

URL, TOKEN, CA = sys.argv[1:]
POLICY = 'path "kv/*" { capabilities = ["create", "read", "delete", "list"] }'


def ask(method: str, path: str, body: object = None) -> dict[str, Any]:
    request = urllib.request.Request(f"{URL}/v1/{path}", json.dumps(body).encode() if body else None, method=method)
    request.add_header("X-Vault-Token", TOKEN)
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=CA)) as response:
        text = response.read()
    return json.loads(text) if text else {}


while True:
    try:
        ask("GET", "sys/health")
        break
    except (OSError, urllib.error.URLError):
        time.sleep(0.2)
ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "1"}})
ask("PUT", "sys/policies/acl/kes", {"policy": POLICY})
ask("POST", "sys/auth/approle", {"type": "approle"})
ask("POST", "auth/approle/role/kes", {"token_policies": ["kes"]})
role = ask("GET", "auth/approle/role/kes/role-id")["data"]["role_id"]
secret = ask("POST", "auth/approle/role/kes/secret-id", {"metadata": "{}"})["data"]["secret_id"]
print(json.dumps({"id": role, "secret": secret}))
