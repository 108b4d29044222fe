#!/usr/bin/env python3
"""A very small S3 client, so that tests and demo can look into a bucket without installing one.

    s3.py make-bucket BUCKET        s3.py ls s3://BUCKET/PREFIX     size and key, one object a line
    s3.py cat s3://BUCKET/KEY...    s3.py put s3://BUCKET/KEY       from standard input
    s3.py rm s3://BUCKET/KEY...

The server and the keys come from S3_ENDPOINT, S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY.
"""

import hashlib
import hmac
import http.client
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from urllib.parse import quote, urlsplit

REGION = "us-east-1"


class Client:
    """Path-style requests over one connection, signed with AWS Signature Version 4."""

    def __init__(self):
        try:
            self.endpoint = urlsplit(os.environ["S3_ENDPOINT"])
            self.key_id = os.environ["S3_ACCESS_KEY_ID"]
            self.secret = os.environ["S3_SECRET_ACCESS_KEY"]
        except KeyError as missing:
            sys.exit(f"s3.py: {missing.args[0]} is not set")
        tls = self.endpoint.scheme == "https"
        connect = http.client.HTTPSConnection if tls else http.client.HTTPConnection
        self.connection = connect(self.endpoint.netloc, timeout=30)

    def call(self, method, bucket, key="", query=None, body=b""):
        return self.send(method, bucket, key, query, body).read()

    def blocks(self, bucket, key):
        """An object of any size, a megabyte at a time."""
        response = self.send("GET", bucket, key)
        while block := response.read(1 << 20):
            yield block

    def send(self, method, bucket, key="", query=None, body=b""):
        path = quote(f"/{bucket}/{key}" if key else f"/{bucket}")
        # The signature covers the parameters in sorted order.
        parameters = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted((query or {}).items()))
        headers = self.sign(method, path, parameters, body)
        self.connection.request(method, f"{path}?{parameters}" if parameters else path, body, headers)
        response = self.connection.getresponse()
        if response.status >= 300:
            answer = response.read().decode(errors="replace")
            raise OSError(f"{method} {path}: {response.status} {answer[:500]}")
        return response

    def sign(self, method, path, parameters, body):
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        headers = {
            "host": self.endpoint.netloc,
            "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
            "x-amz-date": now,
        }
        names = ";".join(headers)
        request = "\n".join(
            [method, path, parameters, *(f"{k}:{v}" for k, v in headers.items()), "", names, headers["x-amz-content-sha256"]]
        )
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return headers

    def objects(self, bucket, prefix):
        query = {"list-type": "2", "prefix": prefix}
        while True:
            page = ElementTree.fromstring(self.call("GET", bucket, query=query))
            for item in page.findall("{*}Contents"):
                yield int(item.findtext("{*}Size")), item.findtext("{*}Key")
            if page.findtext("{*}IsTruncated") != "true":
                return
            query["continuation-token"] = page.findtext("{*}NextContinuationToken")


def main(command=None, *arguments):
    if command not in ("make-bucket", "ls", "cat", "put", "rm") or not arguments:
        sys.exit(__doc__)
    client = Client()
    for argument in arguments:
        bucket, _, key = argument.removeprefix("s3://").partition("/")
        if command == "make-bucket":
            client.call("PUT", bucket)
        elif command == "ls":
            for size, name in client.objects(bucket, key):
                print(f"{size:>12} {name}")
        elif command == "cat":
            for block in client.blocks(bucket, key):
                sys.stdout.buffer.write(block)
        elif command == "put":
            client.call("PUT", bucket, key, body=sys.stdin.buffer.read())
        elif command == "rm":
            client.call("DELETE", bucket, key)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BrokenPipeError:
        # The reader, head perhaps, has seen enough; without this the interpreter complains while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"s3.py: {error}")
