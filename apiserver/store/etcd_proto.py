"""The messages of etcd's v3 API that the store uses, as protobuf classes built at import from the table below. Trimmed: unknown fields are skipped by protobuf itself.

Field numbers and types are etcd's wire protocol (API reference v3: etcdserverpb, mvccpb). Only etcd.py and etcd_client.py import this: protobuf costs memory.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "minik.etcd"

# message → "name number type"; `*` repeated, `?` member of a oneof (for requests, where zero differs from absent), a capital letter another message
_MESSAGES = {
    "KeyValue": ["key 1 bytes", "create_revision 2 int64", "mod_revision 3 int64", "value 5 bytes"],
    "Event": ["type 1 int32", "kv 2 KeyValue", "prev_kv 3 KeyValue"],  # type: PUT 0, DELETE 1
    "ResponseHeader": ["revision 3 int64"],
    "RangeRequest": ["key 1 bytes", "range_end 2 bytes", "limit 3 int64", "revision 4 int64", "count_only 9 bool"],
    "RangeResponse": ["header 1 ResponseHeader", "kvs 2 *KeyValue", "more 3 bool", "count 4 int64"],
    "PutRequest": ["key 1 bytes", "value 2 bytes", "lease 3 int64"],
    "PutResponse": ["header 1 ResponseHeader"],
    "DeleteRangeRequest": ["key 1 bytes", "prev_kv 3 bool"],
    "DeleteRangeResponse": ["header 1 ResponseHeader", "deleted 2 int64", "prev_kvs 3 *KeyValue"],
    "RequestOp": ["request_range 1 ?RangeRequest", "request_put 2 ?PutRequest", "request_delete_range 3 ?DeleteRangeRequest"],
    "ResponseOp": ["response_range 1 ?RangeResponse", "response_put 2 ?PutResponse", "response_delete_range 3 ?DeleteRangeResponse"],
    "Compare": ["result 1 int32", "target 2 int32", "key 3 bytes", "mod_revision 6 ?int64"],  # result: EQUAL 0; target: MOD 2
    "TxnRequest": ["compare 1 *Compare", "success 2 *RequestOp", "failure 3 *RequestOp"],
    "TxnResponse": ["header 1 ResponseHeader", "succeeded 2 bool", "responses 3 *ResponseOp"],
    "CompactionRequest": ["revision 1 int64"],
    "CompactionResponse": ["header 1 ResponseHeader"],
    "WatchCreateRequest": ["key 1 bytes", "range_end 2 bytes", "start_revision 3 int64", "prev_kv 6 bool", "fragment 8 bool"],
    "WatchRequest": ["create_request 1 ?WatchCreateRequest"],
    "WatchResponse": [
        "header 1 ResponseHeader", "watch_id 2 int64", "created 3 bool", "canceled 4 bool", "compact_revision 5 int64", "cancel_reason 6 string", "fragment 7 bool",
        "events 11 *Event",
    ],
    "LeaseGrantRequest": ["TTL 1 int64"],
    "LeaseGrantResponse": ["header 1 ResponseHeader", "ID 2 int64", "TTL 3 int64"],
}

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"bytes": _Field.TYPE_BYTES, "string": _Field.TYPE_STRING, "bool": _Field.TYPE_BOOL, "int32": _Field.TYPE_INT32, "int64": _Field.TYPE_INT64}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="minik/etcd.proto", package=_PACKAGE, syntax="proto3")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        if any("?" in field for field in fields):
            message.oneof_decl.add(name="one")
        for text in fields:
            name, number, kind = text.split()
            field = message.field.add(name=name, number=int(number))
            field.label = _Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL
            if kind.startswith("?"):
                field.oneof_index = 0
            kind = kind.lstrip("*?")
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES}


_classes = _build()
CompactionRequest = _classes["CompactionRequest"]
CompactionResponse = _classes["CompactionResponse"]
Compare = _classes["Compare"]
DeleteRangeRequest = _classes["DeleteRangeRequest"]
DeleteRangeResponse = _classes["DeleteRangeResponse"]
Event = _classes["Event"]
LeaseGrantRequest = _classes["LeaseGrantRequest"]
LeaseGrantResponse = _classes["LeaseGrantResponse"]
PutRequest = _classes["PutRequest"]
PutResponse = _classes["PutResponse"]
RangeRequest = _classes["RangeRequest"]
RangeResponse = _classes["RangeResponse"]
RequestOp = _classes["RequestOp"]
TxnRequest = _classes["TxnRequest"]
TxnResponse = _classes["TxnResponse"]
WatchCreateRequest = _classes["WatchCreateRequest"]
WatchRequest = _classes["WatchRequest"]
WatchResponse = _classes["WatchResponse"]
PUT, DELETE = 0, 1
EQUAL, MOD = 0, 2
