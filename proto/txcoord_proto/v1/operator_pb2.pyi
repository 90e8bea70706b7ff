from txcoord_proto.v1 import coordinator_pb2 as _coordinator_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRequest(_message.Message):
    __slots__ = ("statuses", "service", "key", "limit", "after", "overdue")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    OVERDUE_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[_coordinator_pb2.GlobalStatus]
    service: str
    key: str
    limit: int
    after: str
    overdue: bool
    def __init__(self, statuses: _Optional[_Iterable[_Union[_coordinator_pb2.GlobalStatus, str]]] = ..., service: _Optional[str] = ..., key: _Optional[str] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ..., overdue: bool = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("transactions", "more")
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[_coordinator_pb2.Transaction]
    more: bool
    def __init__(self, transactions: _Optional[_Iterable[_Union[_coordinator_pb2.Transaction, _Mapping]]] = ..., more: bool = ...) -> None: ...

class Act(_message.Message):
    __slots__ = ("version", "act", "at", "actor", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    act: str
    at: int
    actor: str
    reason: str
    def __init__(self, version: _Optional[int] = ..., act: _Optional[str] = ..., at: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ShowReply(_message.Message):
    __slots__ = ("transaction", "acts")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    ACTS_FIELD_NUMBER: _ClassVar[int]
    transaction: _coordinator_pb2.Transaction
    acts: _containers.RepeatedCompositeFieldContainer[Act]
    def __init__(self, transaction: _Optional[_Union[_coordinator_pb2.Transaction, _Mapping]] = ..., acts: _Optional[_Iterable[_Union[Act, _Mapping]]] = ...) -> None: ...

class RetryRequest(_message.Message):
    __slots__ = ("xid", "version", "reason")
    XID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    xid: str
    version: int
    reason: str
    def __init__(self, xid: _Optional[str] = ..., version: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ForceRequest(_message.Message):
    __slots__ = ("xid", "commit", "version", "reason")
    XID_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    xid: str
    commit: bool
    version: int
    reason: str
    def __init__(self, xid: _Optional[str] = ..., commit: bool = ..., version: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class LocksRequest(_message.Message):
    __slots__ = ("resource", "xid", "limit")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    XID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    resource: str
    xid: str
    limit: int
    def __init__(self, resource: _Optional[str] = ..., xid: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class HeldLock(_message.Message):
    __slots__ = ("resource", "key", "xid", "waiters")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    XID_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    resource: str
    key: str
    xid: str
    waiters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, resource: _Optional[str] = ..., key: _Optional[str] = ..., xid: _Optional[str] = ..., waiters: _Optional[_Iterable[str]] = ...) -> None: ...

class LocksReply(_message.Message):
    __slots__ = ("locks", "more")
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    locks: _containers.RepeatedCompositeFieldContainer[HeldLock]
    more: bool
    def __init__(self, locks: _Optional[_Iterable[_Union[HeldLock, _Mapping]]] = ..., more: bool = ...) -> None: ...

class OverviewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServedResource(_message.Message):
    __slots__ = ("resource", "sessions", "waiting", "unavailable")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    resource: str
    sessions: int
    waiting: int
    unavailable: bool
    def __init__(self, resource: _Optional[str] = ..., sessions: _Optional[int] = ..., waiting: _Optional[int] = ..., unavailable: bool = ...) -> None: ...

class OverviewReply(_message.Message):
    __slots__ = ("version", "group", "epoch", "commit_seq", "node", "store", "transactions", "resources", "locks", "sessions", "now", "oldest_begun_at", "health", "overdue", "locks_waited")
    class TransactionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SEQ_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    OLDEST_BEGUN_AT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    OVERDUE_FIELD_NUMBER: _ClassVar[int]
    LOCKS_WAITED_FIELD_NUMBER: _ClassVar[int]
    version: str
    group: str
    epoch: int
    commit_seq: int
    node: str
    store: str
    transactions: _containers.ScalarMap[str, int]
    resources: _containers.RepeatedCompositeFieldContainer[ServedResource]
    locks: int
    sessions: int
    now: int
    oldest_begun_at: int
    health: str
    overdue: int
    locks_waited: int
    def __init__(self, version: _Optional[str] = ..., group: _Optional[str] = ..., epoch: _Optional[int] = ..., commit_seq: _Optional[int] = ..., node: _Optional[str] = ..., store: _Optional[str] = ..., transactions: _Optional[_Mapping[str, int]] = ..., resources: _Optional[_Iterable[_Union[ServedResource, _Mapping]]] = ..., locks: _Optional[int] = ..., sessions: _Optional[int] = ..., now: _Optional[int] = ..., oldest_begun_at: _Optional[int] = ..., health: _Optional[str] = ..., overdue: _Optional[int] = ..., locks_waited: _Optional[int] = ...) -> None: ...
