"""Texts and numbers that callers may send: paths, names, questions, files of JSON. Needs nothing."""

from __future__ import annotations

import math

LONG = 1_000_000
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308, -1e308, 5e-324)
PATHS: dict[str, str] = {
    "nothing": "",
    "a NUL": "\0",
    "a NUL behind a name": "mini\0/etc",
    "the root": "/",
    "a device": "/dev/zero",
    "its own memory": "/proc/self/mem",
    "its own root": "/proc/self/root",
    "up and away": "../" * 500 + "etc",
    "nobody's home": "~nosuchuser/model",
    "a dot": ".",
    "slashes": "/" * 5_000,
    "a megabyte": "a" * LONG,
    "a component too long": "/tmp/" + "b" * 300,
    "formats": "%s%n{0.__class__}$(reboot)`reboot`",
    "a new line": "/tmp/a\n[FATAL] [driving_node]: all is lost",
    "an escape": "\x1b[2J\x1b]0;title\a",
    "right to left": "\u202e/ledom",
    "no text at all": "\ufffd\uffff",
    "a URL": "https://example.com/model",
    "a hub name": "some/model",
}
QUESTIONS: dict[str, str] = {
    "nothing": "",
    "white": " \t\n" * 50,
    "a megabyte": "why? " * (LONG // 5),
    "as long as allowed": "x" * 2_000,
    "one too long": "x" * 2_001,
    "images": "<image>" * 250,
    "tokens of the template": "<|im_end|><s></s>[INST]<bos>" * 40,
    "a template": "{images}{ego}{0.__class__}{speed:999999999d}",
    "jinja": "{% for x in range(10**9) %}{{ x }}{% endfor %}",
    "a NUL": "why\0?",
    "control characters": "".join(map(chr, range(1, 32))) * 20,
    "marks on marks": "e" + "\u0301" * 1_900,
    "emoji": "🧨" * 900,
    "right to left": "\u202e?yhw",
}
IDENTITIES: dict[str, str] = {
    "nothing": "",
    "a NUL": "\0",
    "a digit": "0",
    "a prefix": "abcdef",
    "a path": "../../../etc",
    "a megabyte": "f" * LONG,
    "formats": "%s%n{0}",
    "the number of a version": "000001",
    "a name that cannot be": "999999-ffffffffffff",
    "negative": "-1",
}
JSON: dict[str, bytes] = {
    "nothing": b"",
    "a NUL": b"\0",
    "NaN": b"NaN",
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "a text": b'"text"',
    "a number": b"1e999",
    "lists in lists": b"[" * 200_000,
    "objects in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": b"9" * LONG,
    "a list of a million": b"[" + b"0," * LONG + b"0]",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "half a pair": b'{"a": "\\ud800"}',
    "the same key twice": b'{"format_version": 1, "format_version": 2}',
    "UTF-16": '{"format_version": 2}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"format_version": 2}',
    "a web page": b"<!DOCTYPE html><html>Access denied</html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "a prototype": b'{"__class__": {"__init__": {"__globals__": 1}}, "__proto__": {}}',
}
