"""Requests inside requests, and connections that mean no good: `smuggling.py ADDRESS`, of a load balancer whose server
answers with method and path, and at /seen with those of all requests it ever had."""

import socket
import sys

PORT = 80
# For one answer; all of it comes at once, or the connection ends.
PATIENCE_SECONDS = 5
# What the server must never see.
INNER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
ZERO = b"0\r\n\r\n"
UNFINISHED = 300


def said(sent, address=sys.argv[1]):
    """All that comes back until the connection ends or nothing more comes."""
    answer = b""
    with socket.create_connection((address, PORT), PATIENCE_SECONDS) as stream:
        try:
            stream.sendall(sent)
            while piece := stream.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
    return answer


def asked(path):
    """By somebody else, on a connection of their own: the body."""
    answer = said(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return answer.split(b"\r\n\r\n", 1)[1]


def post(headers, body):
    return b"POST /first HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n" + body


def chunked(header):
    """Whoever does not take the header for what it is not reads a body of this length."""
    return post(header + b"\r\nContent-Length: %d\r\n" % len(ZERO + INNER), ZERO + INNER)


def chunk(size, data):
    return post(b"Transfer-Encoding: chunked\r\n", size + b"\r\n" + data + INNER)


def attempts():
    """Ways to have two readers of the same bytes disagree about where a request ends."""
    length = b"Content-Length: %s\r\n"
    inner = b"%d" % len(INNER)
    yield "two lengths", post(length % b"0" + length % inner, INNER)
    yield "a list of lengths", post(length % (b"0, " + inner), INNER)
    yield "a length with a sign", post(length % (b"+" + inner), INNER)
    yield "a length that wraps", post(length % b"18446744073709551616", INNER)
    yield "a length in another base", post(length % b"0x0", INNER)
    yield "no length at all", post(length % b"", INNER)
    yield "chunked beside another coding", chunked(b"Transfer-Encoding:\tchunked\r\nTransfer-Encoding: identity")
    yield "a space before the colon", chunked(b"Transfer-Encoding : chunked")
    yield "a vertical tab", chunked(b"Transfer-Encoding:\x0bchunked")
    yield "quotation marks", chunked(b'Transfer-Encoding: "chunked"')
    yield "no coding there is", chunked(b"Transfer-Encoding: xchunked")
    yield "chunked and then something else", chunked(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow")
    yield "chunked twice", chunked(b"Transfer-Encoding: chunked, chunked")
    yield "a folded line", chunked(b"Transfer-Encoding:\r\n chunked")
    yield "a like name", chunked(b"Transfer_Encoding: chunked")
    yield "a header behind a lone CR", chunked(b"X: y\rTransfer-Encoding: chunked")
    yield "a header behind a lone LF", chunked(b"X: y\nTransfer-Encoding: chunked")
    yield "a list that ends otherwise", chunked(b"Transfer-Encoding: chunked, identity")
    yield "chunked in HTTP/1.0", chunked(b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0", 1)
    yield "NUL in a name", post(b"X\0Y: z\r\n", INNER)
    yield "NUL in a value", post(b"X: y\0z\r\n", INNER)
    yield "no name", post(b": y\r\n", INNER)
    yield "a size in another base", chunk(b"0x0", b"\r\n")
    yield "a size with a sign", chunk(b"-0", b"\r\n")
    yield "a size with a space", chunk(b"0 ", b"\r\n")
    yield "a size that wraps", chunk(b"10000000000000000", b"\r\n")
    yield "lines of LF", post(b"Transfer-Encoding: chunked\r\n", b"0\n\n" + INNER)
    yield "more than the chunk has", chunk(b"1", b"ab\r\n" + ZERO)
    yield "LF in an extension", chunk(b"0;x\n", b"\r\n")


def refused():
    """Request and status."""
    long = b"a" * (17 << 10)
    yield b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % long, b"414"
    yield b"GET / HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n" % long, b"400"
    yield b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n" % (b"X: y\r\n" * 200), b"400"
    yield b"GET / HTTP/3.1\r\nHost: a\r\n\r\n", b"505"
    yield b"GET / HTTP/1.1\r\n\r\n", b"400"
    yield b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"


def main():
    # The means of this test: two requests on one connection are two, and the server remembers both.
    two = said(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert two.count(b"HTTP/1.1 200 ") == 2 and two.endswith(b"GET /two"), two
    assert b"GET /one\nGET /two\n" in asked(b"/seen")

    for name, attempt in attempts():
        answer = said(attempt)
        assert b"/smuggled" not in answer, (name, answer)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 502 ")) or not answer, (name, answer)
        # Whoever comes next, on whatever connection to the server, is answered what was asked.
        assert asked(b"/next") == b"GET /next", name
        print(name, answer.split(b"\r\n", 1)[0].decode())

    # Both lengths: it goes on in one meaning, and nothing follows on that connection.
    length = b"Content-Length: %d\r\n" % len(ZERO + INNER)
    both = said(post(length + b"Transfer-Encoding: chunked\r\n", ZERO + INNER))
    assert both.count(b"HTTP/1.1 ") == 1 and both.endswith(b"POST /first"), both

    for request, status in refused():
        answer = said(request)
        assert answer.startswith(b"HTTP/1.1 " + status), (request[:60], answer)

    # What never comes whole costs nobody else anything.
    starts = [b"GET / HT", b"GET /slow HTTP/1.1\r\nHo", b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"]
    unfinished = [socket.create_connection((sys.argv[1], PORT)) for _ in range(UNFINISHED)]
    for at, stream in enumerate(unfinished):
        stream.sendall(starts[at % len(starts)])
    assert asked(b"/beside") == b"GET /beside"
    for stream in unfinished:
        stream.close()

    seen = asked(b"/seen")
    assert b"/smuggled" not in seen and b"GET /beside\n" in seen, seen


main()
