"""Reads TensorBoard event files without TensorBoard: TFRecord frames of protobufs."""

import struct
from pathlib import Path

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event


def _masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(event):
    """An event's bytes in a file."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return struct.pack("<QI", len(data), _masked(length)) + data + struct.pack("<I", _masked(data))


def events(folder):
    """Every event of every file, in the files' order; checks both checksums of each frame."""
    for path in sorted(Path(folder).glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length, length_crc), payload = struct.unpack("<QI", data[:12]), data[12:]
            payload, (payload_crc,) = payload[:length], struct.unpack_from("<I", payload, length)
            assert length_crc == _masked(data[:8])
            assert payload_crc == _masked(payload)
            yield Event.FromString(payload)
            data = data[16 + length :]


def scalars(folder):
    """{name: {step: value}}."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def images(folder):
    """{name: {step: PNG bytes}}."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("image"):
                found.setdefault(value.tag, {})[event.step] = value.image.encoded_image_string
    return found
