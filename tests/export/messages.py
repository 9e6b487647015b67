"""The protobuf page, decoded by classes that protobuf makes of the public definition."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.decoder import _DecodeVarint32

_FIELD = descriptor_pb2.FieldDescriptorProto

#: The messages of io/prometheus/client/metrics.proto, as far as a page has them: name, number, type; "*": repeated.
DEFINITION = {
    "Timestamp": [("seconds", 1, "int64"), ("nanos", 2, "int32")],
    "LabelPair": [("name", 1, "string"), ("value", 2, "string")],
    "Gauge": [("value", 1, "double")],
    "Counter": [("value", 1, "double"), ("exemplar", 2, "Exemplar"), ("created_timestamp", 3, "Timestamp")],
    "Exemplar": [("label", 1, "*LabelPair"), ("value", 2, "double"), ("timestamp", 3, "Timestamp")],
    "Bucket": [("cumulative_count", 1, "uint64"), ("upper_bound", 2, "double"), ("exemplar", 3, "Exemplar")],
    "BucketSpan": [("offset", 1, "sint32"), ("length", 2, "uint32")],
    "Histogram": [
        ("sample_count", 1, "uint64"),
        ("sample_sum", 2, "double"),
        ("bucket", 3, "*Bucket"),
        ("schema", 5, "sint32"),
        ("zero_threshold", 6, "double"),
        ("zero_count", 7, "uint64"),
        ("positive_span", 12, "*BucketSpan"),
        ("positive_delta", 13, "*sint64"),
        ("created_timestamp", 15, "Timestamp"),
    ],
    "Metric": [
        ("label", 1, "*LabelPair"),
        ("gauge", 2, "Gauge"),
        ("counter", 3, "Counter"),
        ("histogram", 7, "Histogram"),
    ],
    "MetricFamily": [
        ("name", 1, "string"),
        ("help", 2, "string"),
        ("type", 3, "int32"),
        ("metric", 4, "*Metric"),
        ("unit", 5, "string"),
    ],
}


def _family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="io.prometheus.client", syntax="proto2")
    for message, fields in DEFINITION.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            if kind.strip("*") in DEFINITION:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".io.prometheus.client.{kind.strip('*')}"
            else:
                field.type = getattr(_FIELD, f"TYPE_{kind.strip('*').upper()}")
                field.options.packed = kind.startswith("*")  # every parser accepts both forms
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("io.prometheus.client.MetricFamily"))


FAMILY = _family_class()


def read(content: bytes) -> list[Any]:
    """Return the families of a page."""
    families = []
    at = 0
    while at < len(content):
        size, at = _DecodeVarint32(content, at)
        families.append(FAMILY.FromString(content[at : at + size]))
        assert families[-1].FindInitializationErrors() == []
        assert families[-1].SerializeToString() == content[at : at + size]
        at += size
    return families
