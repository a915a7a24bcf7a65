"""Takes the examples out of a Markdown text, and makes them fit a running instance."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,}) *(?P<language>[\w+-]*)")
SHELLS = ("sh", "console")
HOSTS = r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])"


@dataclass(frozen=True)
class Block:
    """A fenced block of code. `line` is the number of its first line, for messages."""

    language: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a text, without their fences and their indentation."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        # As CommonMark has it: closed by at least as many of the same marks and nothing else.
        closing = re.compile(rf"^ *{opening['marks'][0]}{{{len(opening['marks'])},}} *$")
        first = number
        while number < len(lines) and not closing.match(lines[number]):
            number += 1
        inside = [line.removeprefix(opening["indent"]) for line in lines[first:number]]
        yield Block(opening["language"], "\n".join(inside) + "\n", first + 1)
        number += 1


def grpcurl_lines(block: Block) -> Iterator[str]:
    """The commands of a shell block that begin with grpcurl, with what their continuation lines say."""
    if block.language not in SHELLS:
        return
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        command = line.strip().removeprefix("$ ").lstrip()
        if command.startswith("grpcurl "):
            yield command


def with_addresses(text: str, ws: str, grpc: str, admin: str) -> str:
    """The text with the default addresses replaced by those of an instance."""
    for port, address in ((8181, ws), (50051, grpc), (8182, admin)):
        text = re.sub(rf"{HOSTS}:{port}\b", address, text)
    return text


SAMPLE = """\
# Sample
```sh
cargo run   # not for us
grpcurl -plaintext localhost:50051 list
grpcurl -plaintext -d '{"snapshot":{}}' \\
    127.0.0.1:50051 heartwire.v1.EventService/Subscribe
```
Text, then a list:
1. one
   ```console
   $ grpcurl -plaintext 127.0.0.1:50051 describe
   heartwire.v1 is shown, and grpcurl is named
   ```
~~~python
url = "ws://localhost:8181/?client_id=alice"
if url:
    print("```")
~~~
````js
`http://127.0.0.1:8182/readyz 127.0.0.1:81810`
````
```
grpcurl in a block without a language
```
"""


def self_test() -> None:
    """Fails if the functions above do not do what they should with the sample."""
    found = list(blocks(SAMPLE))
    assert [block.language for block in found] == ["sh", "console", "python", "js", ""], found
    assert [block.line for block in found] == [3, 11, 15, 20, 23], found
    assert [line for block in found for line in grpcurl_lines(block)] == [
        "grpcurl -plaintext localhost:50051 list",
        "grpcurl -plaintext -d '{\"snapshot\":{}}' 127.0.0.1:50051 heartwire.v1.EventService/Subscribe",
        "grpcurl -plaintext 127.0.0.1:50051 describe",
    ]
    python = with_addresses(found[2].text, "h:1", "h:2", "h:3")
    assert python == 'url = "ws://h:1/?client_id=alice"\nif url:\n    print("```")\n', python
    script = with_addresses(found[3].text, "h:1", "h:2", "h:3")
    assert script == "`http://h:3/readyz 127.0.0.1:81810`\n", script
