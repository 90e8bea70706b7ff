"""What the page on the wire needs of the program grpcurl: calls one unary method by what the server's reflection tells of it."""

from __future__ import annotations

import argparse
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main() -> None:
    """Make the call that the command line describes; print the answer as grpcurl does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", default="{}")
    parser.add_argument("address")
    parser.add_argument("method")
    arguments = parser.parse_args()
    metadata = [(name.strip().lower(), value.strip()) for name, _, value in (header.partition(":") for header in arguments.H)]
    service, _, name = arguments.method.partition("/")
    with grpc.insecure_channel(arguments.address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(service).methods_by_name[name]
        call = channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        request = json_format.Parse(arguments.d, GetMessageClass(method.input_type)())
        try:
            answer = call(request, metadata=metadata, timeout=20)
            print(json_format.MessageToJson(answer, preserving_proto_field_name=True))
        except grpc.RpcError as error:
            sys.exit(f"ERROR:\n  Code: {error.code().name}\n  Message: {error.details()}")


if __name__ == "__main__":
    main()
