"""What the proto files say: Python stubs for them, and their elements with the comments."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import descriptor_pb2

# Field numbers in descriptor.proto, of which the paths in SourceCodeInfo are made.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, ENUM_VALUE, SERVICE_METHOD = 2, 2, 2


@dataclass(frozen=True)
class Element:
    """A service, message or enum with all comments in it, or a method with its own."""

    name: str
    kind: str
    comments: tuple[str, ...]
    streaming: bool = False


def generate(protos: Path, out: Path) -> None:
    """Generates the Python stubs, as every user does."""
    _protoc(protos, f"--python_out={out}", f"--grpc_python_out={out}")


def elements(protos: Path, out: Path) -> list[Element]:
    """Everything in the proto files that `grpcurl describe` can be asked for."""
    path = out / "heartwire.binpb"
    _protoc(protos, f"--descriptor_set_out={path}", "--include_source_info")
    files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
    return [element for file in files for element in _of_file(file)]


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Element]:
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

    def of(*path: int) -> str:
        comment = comments.get(path, "")
        if not comment:
            raise ValueError(f"{file.name}: the element at {path} has no comment")
        return comment

    for i, message in enumerate(file.message_type):
        fields = [of(FILE_MESSAGE, i, MESSAGE_FIELD, j) for j in range(len(message.field))]
        yield Element(f"{file.package}.{message.name}", "message", (of(FILE_MESSAGE, i), *fields))
    for i, enum in enumerate(file.enum_type):
        values = [of(FILE_ENUM, i, ENUM_VALUE, j) for j in range(len(enum.value))]
        yield Element(f"{file.package}.{enum.name}", "enum", (of(FILE_ENUM, i), *values))
    for i, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        methods = [of(FILE_SERVICE, i, SERVICE_METHOD, j) for j in range(len(service.method))]
        yield Element(name, "service", (of(FILE_SERVICE, i), *methods))
        for method, comment in zip(service.method, methods, strict=True):
            streaming = method.client_streaming or method.server_streaming
            yield Element(f"{name}.{method.name}", "method", (comment,), streaming)


def _protoc(protos: Path, *options: str) -> None:
    files = sorted(str(path) for path in protos.rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={protos}", *options, *files]
    subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
