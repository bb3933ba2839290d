#!/usr/bin/env python3
"""Makes a bucket on a test server: `bucket.py s3|az URL NAME`. Clients of checkpoints and data never do that, so this is Python's job.

Azure wants the request signed; the key is that of the account which every Azure emulator has.
"""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.request

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def main() -> None:
    kind, url, name = sys.argv[1:]
    if kind == "s3":
        request = urllib.request.Request(f"{url}/{name}", method="PUT")
    else:
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06", "Content-Length": "0"}
        signed = [f"{key}:{headers[key]}" for key in ("x-ms-date", "x-ms-version")]
        # The twelve standard headers that such a request has none of, then Azure's own and the path.
        text = "\n".join(["PUT", *[""] * 11, *signed, f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"])
        digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        request = urllib.request.Request(f"{url}/{ACCOUNT}/{name}?restype=container", method="PUT", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status in (200, 201), answer.status


main()
