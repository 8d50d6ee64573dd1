"""Random values a service model allows."""

import datetime
import re
import re._constants as sre
import re._parser as sre_parse
import string

DEPTH_MAX = 5
VALUES_MAX = 250
PATTERN_TRIES_MAX = 60
# Where they matter: ends of lines, what XML and forms escape, beyond Latin and beyond the first plane.
SPECIAL = "\t\n &<>\"'%+=;,:/?#[]{}\\|~^`é€漢😀\u00a0"
CONTROL = "\r\x01\x1f\x7f"
XML = ("query", "ec2", "rest-xml")
# Members HTTP itself understands: a random one would say something untrue about the message.
HTTP_HEADERS = ("content-length", "content-encoding", "transfer-encoding", "expect", "connection", "host")


class Unsatisfiable(Exception):
    """The model asks for what a generator of this size can not make."""


class Generator:
    def __init__(self, rng, protocol):
        self.rng, self.protocol = rng, protocol
        self.values, self.sure, self.is_input = 0, True, False

    def input(self, shape):
        self.values, self.is_input = 0, True
        return self.structure(shape, 0, top=True)

    def output(self, shape):
        self.values, self.is_input = 0, False
        sure = self.sure
        value = self.structure(shape, 0, top=True)
        self.sure = sure
        return value

    # -- structures, lists, maps

    def is_form(self):
        """Forms can not say "an empty structure"."""
        return self.is_input and self.protocol in ("query", "ec2")

    def structure(self, shape, depth, top=False):
        if shape.is_document_type:
            return self.document(0)
        if depth > 40:
            raise Unsatisfiable(shape.name)
        names = [name for name in shape.members if not (self.is_form() and is_memberless(shape.members[name]))]
        required = set(shape.required_members)
        payload = shape.serialization.get("payload")
        if shape.is_tagged_union:
            flat = [name for name in names if depth < DEPTH_MAX or not self.is_deep(shape.members[name])]
            chosen = {self.rng.choice(flat or names)} if names else set()
        else:
            often = 0.6 if depth < 2 else 0.35
            chosen = set(required)
            for name in names:
                deep = self.is_deep(shape.members[name])
                if (depth < DEPTH_MAX or not deep) and self.values < VALUES_MAX and self.rng.random() < often:
                    chosen.add(name)
            if top:
                chosen.update(name for name in (payload, shape.event_stream_name) if name)
            if not chosen and not top and self.is_form():
                flat = [name for name in names if not self.is_deep(shape.members[name])]
                chosen = {self.rng.choice(flat or names)}
        value = {}
        for name in names:
            if shape.members[name].serialization.get("name", "").lower() in HTTP_HEADERS:
                continue
            if name in chosen:
                value[name] = self.member(shape.members[name], depth + 1, name == payload and top)
        return value

    def is_deep(self, shape):
        return shape.type_name in ("structure", "list", "map")

    def member(self, shape, depth, is_payload=False):
        location = shape.serialization.get("location")
        if shape.serialization.get("eventstream"):
            return [self.event(shape, depth) for _ in range(self.rng.randint(0, 3))]
        return self.value(shape, depth, location, is_payload)

    def event(self, shape, depth):
        names = [name for name, member in shape.members.items() if not member.metadata.get("exception")]
        name = self.rng.choice(names)
        return {name: self.structure(shape.members[name], depth)}

    def value(self, shape, depth, location=None, is_payload=False):
        self.values += 1
        kind = shape.type_name
        if kind == "structure":
            return self.structure(shape, depth)
        if kind == "list":
            return self.list(shape, depth, location)
        if kind == "map":
            return self.map(shape, depth, location)
        if location == "statusCode":
            return self.rng.choice([200, 201, 202])
        if kind in ("integer", "long"):
            return self.integer(shape)
        if kind in ("float", "double"):
            return self.number(shape)
        if kind == "boolean":
            return self.rng.random() < 0.5
        if kind == "timestamp":
            return self.timestamp(shape, location)
        if kind == "blob":
            return self.blob(shape, is_payload)
        return self.string(shape, location, is_payload)

    def size(self, shape, depth, least):
        low = max(least, shape.metadata.get("min", 0))
        high = max(low, min(shape.metadata.get("max", 3), 3 if depth < 3 and self.values < VALUES_MAX else 1))
        if low > 60:
            raise Unsatisfiable(shape.name)
        return self.rng.randint(low, high)

    def list(self, shape, depth, location):
        # Not in every place a protocol has words for an empty list.
        flat = shape.serialization.get("flattened") and self.protocol in XML and self.protocol != "ec2"
        least = 1 if location or flat or self.protocol == "ec2" and self.is_input else 0
        if flat and self.is_input and self.protocol == "query":
            least = 1
        if depth > DEPTH_MAX + 3 and self.is_deep(shape.member) and not least and not shape.metadata.get("min"):
            return []
        return [self.value(shape.member, depth + 1, location) for _ in range(self.size(shape, depth, least))]

    def map(self, shape, depth, location):
        # Neither botocore's forms nor flattened XML can say "an empty map".
        least = 1 if location or self.protocol in XML else 0
        entries = {}
        for _ in range(self.size(shape, depth, least)):
            key = self.string(shape.key, location or "key", False)
            if location == "headers":
                key = key.lower()
            entries[key] = self.value(shape.value, depth + 1, location)
        if len(entries) < shape.metadata.get("min", 0):
            raise Unsatisfiable(shape.name)
        return entries

    def document(self, depth):
        kind = self.rng.choice(["object", "list", "text", "number", "null", "bool"] if 0 < depth < 3 else ["object", "text"])
        if kind == "object" or depth == 0:
            return {self.letters(4): self.document(depth + 1) for _ in range(self.rng.randint(0, 3))}
        if kind == "list":
            return [self.document(depth + 1) for _ in range(self.rng.randint(0, 3))]
        return {"text": self.text(5), "number": self.rng.choice([0, -7, 1.5, 1e300]), "null": None, "bool": True}[kind]

    # -- scalars

    def integer(self, shape):
        bits = 31 if shape.type_name == "integer" else 62
        low = int(shape.metadata.get("min", -(1 << bits)))
        high = int(shape.metadata.get("max", (1 << bits) - 1))
        near = max(low, min(high, self.rng.randint(-5, 500)))
        return self.rng.choice([near, low, high, self.rng.randint(low, high)])

    def number(self, shape):
        low, high = shape.metadata.get("min", -1e6), shape.metadata.get("max", 1e6)
        # Eighths are exact in 32 bits too.
        number = round(self.rng.uniform(low, high) * 8) / 8
        number = max(low, min(high, number))
        if "min" not in shape.metadata and "max" not in shape.metadata and self.rng.random() < 0.1:
            number = self.rng.choice([float("nan"), float("inf"), float("-inf"), 0.0, -0.0])
        return float(number)

    def timestamp(self, shape, location):
        at = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        at += datetime.timedelta(seconds=self.rng.randint(-(1 << 30), 1 << 32))
        format_ = shape.serialization.get("timestampFormat")
        whole = format_ == "rfc822" or (location in ("header", "headers") and format_ is None)
        if not whole and self.rng.random() < 0.5 and location != "header":
            at += datetime.timedelta(milliseconds=self.rng.randint(1, 999))
        return at

    def blob(self, shape, is_payload):
        low = shape.metadata.get("min", 0)
        high = max(low, min(shape.metadata.get("max", 40), 40 + low))
        length = self.rng.randint(low, high)
        if is_payload:
            # botocore decodes a payload that does not stream as text.
            return self.letters(max(length, 1)).encode()
        return self.rng.randbytes(length)

    def string(self, shape, location, is_payload):
        allowed = shape.metadata.get("enum")
        if allowed:
            return self.rng.choice(allowed)
        low, high = shape.metadata.get("min", 0), shape.metadata.get("max", 1 << 20)
        if location == "uri" or is_payload or location in ("headers", "header", "key"):
            low = max(low, 1)
        if low > 5000:
            raise Unsatisfiable(shape.name)
        length = self.rng.randint(low, max(low, min(high, low + 20)))
        pattern = shape.metadata.get("pattern")
        if pattern:
            return self.matching(pattern, low, high, length, location)
        if location in ("header", "headers", "key") or is_payload:
            return self.letters(length)
        return self.text(length)

    def letters(self, length):
        return "".join(self.rng.choices(string.ascii_letters + string.digits + "-", k=length))

    def text(self, length):
        odd = SPECIAL if self.protocol in XML else SPECIAL + CONTROL
        # Python writes a carriage return into XML as it is, and a parser may not keep it.
        if self.protocol in XML and not (self.protocol == "rest-xml" and self.is_input):
            odd += "\r"
        plain = string.ascii_letters + string.digits
        return "".join(self.rng.choice(odd if self.rng.random() < 0.25 else plain) for _ in range(length))

    def matching(self, pattern, low, high, length, location):
        compiled = compiled_pattern(pattern)
        if compiled is not None:
            tree, regex = compiled
            for attempt in range(PATTERN_TRIES_MAX):
                text = self.from_tree(tree, length if attempt % 3 == 0 else self.rng.randint(1, max(length, 2)))
                if low <= len(text) <= high and regex.fullmatch(text) and self.fits(text, location):
                    return text
        self.sure = False
        return self.letters(max(low, min(length, high)))

    def fits(self, text, location):
        if any(0xD800 <= ord(c) <= 0xDFFF or c in "\ufffe\uffff" for c in text):
            return False
        in_xml = self.protocol == "rest-xml" or (self.protocol in XML and not self.is_input)
        if in_xml and any(c < " " and c not in "\t\n" for c in text):
            return False
        if location in ("header", "headers", "key"):
            return text and all(" " < c < "\x7f" and c not in ',"' for c in text)
        return text or location != "uri"

    def from_tree(self, tree, length):
        return "".join(self.from_node(op, arg, length) for op, arg in tree)

    def from_node(self, op, arg, length):
        rng = self.rng
        if op is sre.LITERAL:
            return chr(arg)
        if op is sre.NOT_LITERAL:
            return "a" if arg != ord("a") else "b"
        if op is sre.ANY:
            return rng.choice(string.ascii_letters)
        if op is sre.IN:
            return self.from_class(arg)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, inner = arg
            most = min(int(most), least + length)
            # As long as can be, or any: both ends of a length matter.
            times = most if rng.random() < 0.5 else rng.randint(least, most)
            return "".join(self.from_tree(inner, max(1, length // max(times, 1))) for _ in range(times))
        if op is sre.SUBPATTERN:
            return self.from_tree(arg[3], length)
        if op is sre.BRANCH:
            return self.from_tree(rng.choice(arg[1]), length)
        if op is sre.ATOMIC_GROUP:
            return self.from_tree(arg, length)
        # Anchors and look-arounds stand for no text; the whole is checked afterwards.
        return ""

    def from_class(self, items):
        ranges, negated = [], False
        for op, arg in items:
            if op is sre.NEGATE:
                negated = True
            elif op is sre.LITERAL:
                ranges.append((arg, arg))
            elif op is sre.RANGE:
                ranges.append(arg)
            elif op is sre.CATEGORY:
                ranges.extend(CATEGORIES.get(arg, [(97, 122)]))
        if negated:
            free = [c for c in string.ascii_letters + string.digits + " _-./" if not within(ord(c), ranges)]
            return self.rng.choice(free or ["\u00e9"])
        low, high = self.rng.choice(ranges)
        return chr(self.rng.randint(low, high))


def is_memberless(shape):
    return shape.type_name == "structure" and not shape.members and not shape.is_document_type


CATEGORIES = {
    sre.CATEGORY_DIGIT: [(48, 57)],
    sre.CATEGORY_WORD: [(48, 57), (65, 90), (95, 95), (97, 122)],
    sre.CATEGORY_SPACE: [(32, 32)],
    sre.CATEGORY_NOT_DIGIT: [(97, 122)],
    sre.CATEGORY_NOT_WORD: [(32, 32)],
    sre.CATEGORY_NOT_SPACE: [(33, 126)],
}
PATTERNS = {}


def within(code, ranges):
    return any(low <= code <= high for low, high in ranges)


def planes(found):
    return f"\\U{int(found[1], 16):08x}"


def compiled_pattern(pattern):
    """A Java pattern as Python reads it; only a part of what `\\p{…}` allows, which is enough to make values."""
    if pattern not in PATTERNS:
        text = pattern
        for java, python in ((r"\p{L}", "a-zA-Z"), (r"\p{Z}", " "), (r"\p{N}", "0-9"), (r"\p{M}", "\u0301"),
                             (r"\p{S}", "+"), (r"\p{P}", "!"), (r"\p{Alnum}", "a-zA-Z0-9"), (r"\p{Graph}", "!-~"),
                             (r"\p{Print}", " -~"), (r"\p{ASCII}", " -~"), (r"\p{IsAlphabetic}", "a-z")):
            text = text.replace(java, python)
        # `\\u10000-\\u10FFFF` is meant as characters of the planes beyond the first.
        text = re.sub(r"\\u(10[0-9A-Fa-f]{4}|[1-9A-Fa-f][0-9A-Fa-f]{4})(?![0-9A-Fa-f])", planes, text)
        try:
            PATTERNS[pattern] = (sre_parse.parse(text, re.ASCII), re.compile(text, re.ASCII))
        except (re.error, OverflowError):
            PATTERNS[pattern] = None
    return PATTERNS[pattern]
