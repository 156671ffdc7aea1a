"""uvicorn's HTTP protocol with the refusal of malformed requests in the Open Inference Protocol's shape."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol


class RouterProtocol(HttpToolsProtocol):
    """Content-Length with Transfer-Encoding, two Content-Lengths and the like end the connection with 400."""

    def send_400_response(self, msg: str) -> None:
        body = b'{"error":"this is not a valid HTTP request; check its framing headers"}'
        head = b"content-type: application/json\r\nmoorage-error: bad_http\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + b"connection: close\r\n\r\n" + body)
        self.transport.close()
