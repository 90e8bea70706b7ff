from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BranchType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BRANCH_TYPE_UNSPECIFIED: _ClassVar[BranchType]
    AT: _ClassVar[BranchType]
    XA: _ClassVar[BranchType]
    TCC: _ClassVar[BranchType]
    SAGA: _ClassVar[BranchType]
    MESSAGE: _ClassVar[BranchType]
    NOTIFY: _ClassVar[BranchType]

class GlobalStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GLOBAL_STATUS_UNSPECIFIED: _ClassVar[GlobalStatus]
    ACTIVE: _ClassVar[GlobalStatus]
    COMMITTING: _ClassVar[GlobalStatus]
    COMMITTED: _ClassVar[GlobalStatus]
    ROLLING_BACK: _ClassVar[GlobalStatus]
    ROLLED_BACK: _ClassVar[GlobalStatus]
    PARKED: _ClassVar[GlobalStatus]

class PhaseOne(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_ONE_UNSPECIFIED: _ClassVar[PhaseOne]
    PHASE_ONE_DONE: _ClassVar[PhaseOne]
    PHASE_ONE_FAILED: _ClassVar[PhaseOne]
    PHASE_ONE_UNKNOWN: _ClassVar[PhaseOne]

class CommandResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMAND_RESULT_UNSPECIFIED: _ClassVar[CommandResult]
    COMMAND_DONE: _ClassVar[CommandResult]
    COMMAND_RETRY: _ClassVar[CommandResult]
    COMMAND_UNAVAILABLE: _ClassVar[CommandResult]
    COMMAND_PARK: _ClassVar[CommandResult]

class Wait(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_SETTLED: _ClassVar[Wait]
    WAIT_DECIDED: _ClassVar[Wait]

class Settlement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SETTLEMENT_UNSPECIFIED: _ClassVar[Settlement]
    UNSETTLED: _ClassVar[Settlement]
    SETTLED: _ClassVar[Settlement]
    EXPIRED: _ClassVar[Settlement]
    UNKNOWN: _ClassVar[Settlement]
BRANCH_TYPE_UNSPECIFIED: BranchType
AT: BranchType
XA: BranchType
TCC: BranchType
SAGA: BranchType
MESSAGE: BranchType
NOTIFY: BranchType
GLOBAL_STATUS_UNSPECIFIED: GlobalStatus
ACTIVE: GlobalStatus
COMMITTING: GlobalStatus
COMMITTED: GlobalStatus
ROLLING_BACK: GlobalStatus
ROLLED_BACK: GlobalStatus
PARKED: GlobalStatus
PHASE_ONE_UNSPECIFIED: PhaseOne
PHASE_ONE_DONE: PhaseOne
PHASE_ONE_FAILED: PhaseOne
PHASE_ONE_UNKNOWN: PhaseOne
COMMAND_RESULT_UNSPECIFIED: CommandResult
COMMAND_DONE: CommandResult
COMMAND_RETRY: CommandResult
COMMAND_UNAVAILABLE: CommandResult
COMMAND_PARK: CommandResult
WAIT_SETTLED: Wait
WAIT_DECIDED: Wait
SETTLEMENT_UNSPECIFIED: Settlement
UNSETTLED: Settlement
SETTLED: Settlement
EXPIRED: Settlement
UNKNOWN: Settlement

class Hello(_message.Message):
    __slots__ = ("protocol_min", "protocol_max", "service", "instance", "token", "resources", "epoch_seen", "commit_seq_seen")
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SEQ_SEEN_FIELD_NUMBER: _ClassVar[int]
    protocol_min: int
    protocol_max: int
    service: str
    instance: str
    token: str
    resources: _containers.RepeatedScalarFieldContainer[str]
    epoch_seen: int
    commit_seq_seen: int
    def __init__(self, protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., service: _Optional[str] = ..., instance: _Optional[str] = ..., token: _Optional[str] = ..., resources: _Optional[_Iterable[str]] = ..., epoch_seen: _Optional[int] = ..., commit_seq_seen: _Optional[int] = ...) -> None: ...

class BeginRequest(_message.Message):
    __slots__ = ("name", "timeout_ms", "key", "traceparent", "begin_key", "first_begun_at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    BEGIN_KEY_FIELD_NUMBER: _ClassVar[int]
    FIRST_BEGUN_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    timeout_ms: int
    key: str
    traceparent: str
    begin_key: int
    first_begun_at: int
    def __init__(self, name: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., key: _Optional[str] = ..., traceparent: _Optional[str] = ..., begin_key: _Optional[int] = ..., first_begun_at: _Optional[int] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("xid", "branch_id", "type", "resource", "lock_keys", "arguments", "begin", "lock_wait_ms", "holds_row_locks", "done", "tell_timeout")
    XID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    LOCK_KEYS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    LOCK_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    HOLDS_ROW_LOCKS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TELL_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    xid: str
    branch_id: int
    type: BranchType
    resource: str
    lock_keys: _containers.RepeatedScalarFieldContainer[str]
    arguments: bytes
    begin: BeginRequest
    lock_wait_ms: int
    holds_row_locks: bool
    done: bool
    tell_timeout: bool
    def __init__(self, xid: _Optional[str] = ..., branch_id: _Optional[int] = ..., type: _Optional[_Union[BranchType, str]] = ..., resource: _Optional[str] = ..., lock_keys: _Optional[_Iterable[str]] = ..., arguments: _Optional[bytes] = ..., begin: _Optional[_Union[BeginRequest, _Mapping]] = ..., lock_wait_ms: _Optional[int] = ..., holds_row_locks: bool = ..., done: bool = ..., tell_timeout: bool = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("xid", "branch_id", "result", "error")
    XID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    xid: str
    branch_id: int
    result: PhaseOne
    error: str
    def __init__(self, xid: _Optional[str] = ..., branch_id: _Optional[int] = ..., result: _Optional[_Union[PhaseOne, str]] = ..., error: _Optional[str] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("xid", "wait")
    XID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    xid: str
    wait: Wait
    def __init__(self, xid: _Optional[str] = ..., wait: _Optional[_Union[Wait, str]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("xid", "wait", "reason")
    XID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    xid: str
    wait: Wait
    reason: str
    def __init__(self, xid: _Optional[str] = ..., wait: _Optional[_Union[Wait, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackOnlyRequest(_message.Message):
    __slots__ = ("xid", "reason")
    XID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    xid: str
    reason: str
    def __init__(self, xid: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("xid", "key")
    XID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    xid: str
    key: str
    def __init__(self, xid: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class LockQuery(_message.Message):
    __slots__ = ("resource", "lock_keys", "xid")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    LOCK_KEYS_FIELD_NUMBER: _ClassVar[int]
    XID_FIELD_NUMBER: _ClassVar[int]
    resource: str
    lock_keys: _containers.RepeatedScalarFieldContainer[str]
    xid: str
    def __init__(self, resource: _Optional[str] = ..., lock_keys: _Optional[_Iterable[str]] = ..., xid: _Optional[str] = ...) -> None: ...

class SettledQuery(_message.Message):
    __slots__ = ("xids",)
    XIDS_FIELD_NUMBER: _ClassVar[int]
    xids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, xids: _Optional[_Iterable[str]] = ...) -> None: ...

class AllocateBranchIdsRequest(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class ServeRequest(_message.Message):
    __slots__ = ("resources",)
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, resources: _Optional[_Iterable[str]] = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("xid", "branch_id", "result", "code", "error")
    XID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    xid: str
    branch_id: int
    result: CommandResult
    code: str
    error: str
    def __init__(self, xid: _Optional[str] = ..., branch_id: _Optional[int] = ..., result: _Optional[_Union[CommandResult, str]] = ..., code: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("id", "hello", "begin", "register", "report", "commit", "rollback", "rollback_only", "status", "lock_query", "settled", "allocate", "serve", "answer")
    ID_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_ONLY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LOCK_QUERY_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    ALLOCATE_FIELD_NUMBER: _ClassVar[int]
    SERVE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    id: int
    hello: Hello
    begin: BeginRequest
    register: RegisterRequest
    report: ReportRequest
    commit: CommitRequest
    rollback: RollbackRequest
    rollback_only: RollbackOnlyRequest
    status: StatusRequest
    lock_query: LockQuery
    settled: SettledQuery
    allocate: AllocateBranchIdsRequest
    serve: ServeRequest
    answer: AnswerRequest
    def __init__(self, id: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., begin: _Optional[_Union[BeginRequest, _Mapping]] = ..., register: _Optional[_Union[RegisterRequest, _Mapping]] = ..., report: _Optional[_Union[ReportRequest, _Mapping]] = ..., commit: _Optional[_Union[CommitRequest, _Mapping]] = ..., rollback: _Optional[_Union[RollbackRequest, _Mapping]] = ..., rollback_only: _Optional[_Union[RollbackOnlyRequest, _Mapping]] = ..., status: _Optional[_Union[StatusRequest, _Mapping]] = ..., lock_query: _Optional[_Union[LockQuery, _Mapping]] = ..., settled: _Optional[_Union[SettledQuery, _Mapping]] = ..., allocate: _Optional[_Union[AllocateBranchIdsRequest, _Mapping]] = ..., serve: _Optional[_Union[ServeRequest, _Mapping]] = ..., answer: _Optional[_Union[AnswerRequest, _Mapping]] = ...) -> None: ...

class ClientBatch(_message.Message):
    __slots__ = ("requests", "reported_xids", "reported_branches", "done_xids", "done_branches")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    REPORTED_XIDS_FIELD_NUMBER: _ClassVar[int]
    REPORTED_BRANCHES_FIELD_NUMBER: _ClassVar[int]
    DONE_XIDS_FIELD_NUMBER: _ClassVar[int]
    DONE_BRANCHES_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[Request]
    reported_xids: _containers.RepeatedScalarFieldContainer[str]
    reported_branches: _containers.RepeatedScalarFieldContainer[int]
    done_xids: _containers.RepeatedScalarFieldContainer[str]
    done_branches: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, requests: _Optional[_Iterable[_Union[Request, _Mapping]]] = ..., reported_xids: _Optional[_Iterable[str]] = ..., reported_branches: _Optional[_Iterable[int]] = ..., done_xids: _Optional[_Iterable[str]] = ..., done_branches: _Optional[_Iterable[int]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "retryable", "details")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    retryable: bool
    details: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., retryable: bool = ..., details: _Optional[_Mapping[str, str]] = ...) -> None: ...

class BranchIdBlock(_message.Message):
    __slots__ = ("first", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "group", "epoch", "branch_ids", "max_batch", "max_message_bytes")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BRANCH_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    group: str
    epoch: int
    branch_ids: BranchIdBlock
    max_batch: int
    max_message_bytes: int
    def __init__(self, protocol: _Optional[int] = ..., group: _Optional[str] = ..., epoch: _Optional[int] = ..., branch_ids: _Optional[_Union[BranchIdBlock, _Mapping]] = ..., max_batch: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class BeginReply(_message.Message):
    __slots__ = ("xid",)
    XID_FIELD_NUMBER: _ClassVar[int]
    xid: str
    def __init__(self, xid: _Optional[str] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("xid", "timeout_left_ms")
    XID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    xid: str
    timeout_left_ms: int
    def __init__(self, xid: _Optional[str] = ..., timeout_left_ms: _Optional[int] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DecisionReply(_message.Message):
    __slots__ = ("xid", "status", "reason", "settled", "explanation", "decision")
    XID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    xid: str
    status: GlobalStatus
    reason: str
    settled: bool
    explanation: str
    decision: str
    def __init__(self, xid: _Optional[str] = ..., status: _Optional[_Union[GlobalStatus, str]] = ..., reason: _Optional[str] = ..., settled: bool = ..., explanation: _Optional[str] = ..., decision: _Optional[str] = ...) -> None: ...

class Branch(_message.Message):
    __slots__ = ("id", "type", "resource", "status", "lock_keys", "attempts", "executor", "error_code", "error", "registered_at", "reported_at", "first_command_at", "settled_at", "next_try_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LOCK_KEYS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    REPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    FIRST_COMMAND_AT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_AT_FIELD_NUMBER: _ClassVar[int]
    NEXT_TRY_AT_FIELD_NUMBER: _ClassVar[int]
    id: int
    type: BranchType
    resource: str
    status: str
    lock_keys: _containers.RepeatedScalarFieldContainer[str]
    attempts: int
    executor: str
    error_code: str
    error: str
    registered_at: int
    reported_at: int
    first_command_at: int
    settled_at: int
    next_try_at: int
    def __init__(self, id: _Optional[int] = ..., type: _Optional[_Union[BranchType, str]] = ..., resource: _Optional[str] = ..., status: _Optional[str] = ..., lock_keys: _Optional[_Iterable[str]] = ..., attempts: _Optional[int] = ..., executor: _Optional[str] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., registered_at: _Optional[int] = ..., reported_at: _Optional[int] = ..., first_command_at: _Optional[int] = ..., settled_at: _Optional[int] = ..., next_try_at: _Optional[int] = ...) -> None: ...

class NextEvent(_message.Message):
    __slots__ = ("at", "code", "text")
    AT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    at: int
    code: str
    text: str
    def __init__(self, at: _Optional[int] = ..., code: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Transaction(_message.Message):
    __slots__ = ("xid", "status", "decision", "reason", "name", "service", "key", "traceparent", "begun_at", "deadline_at", "decided_at", "settled_at", "version", "branches", "explanation_code", "explanation", "next_events", "overdue", "forced")
    XID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    BEGUN_AT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_AT_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_AT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_CODE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    NEXT_EVENTS_FIELD_NUMBER: _ClassVar[int]
    OVERDUE_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    xid: str
    status: GlobalStatus
    decision: str
    reason: str
    name: str
    service: str
    key: str
    traceparent: str
    begun_at: int
    deadline_at: int
    decided_at: int
    settled_at: int
    version: int
    branches: _containers.RepeatedCompositeFieldContainer[Branch]
    explanation_code: str
    explanation: str
    next_events: _containers.RepeatedCompositeFieldContainer[NextEvent]
    overdue: bool
    forced: bool
    def __init__(self, xid: _Optional[str] = ..., status: _Optional[_Union[GlobalStatus, str]] = ..., decision: _Optional[str] = ..., reason: _Optional[str] = ..., name: _Optional[str] = ..., service: _Optional[str] = ..., key: _Optional[str] = ..., traceparent: _Optional[str] = ..., begun_at: _Optional[int] = ..., deadline_at: _Optional[int] = ..., decided_at: _Optional[int] = ..., settled_at: _Optional[int] = ..., version: _Optional[int] = ..., branches: _Optional[_Iterable[_Union[Branch, _Mapping]]] = ..., explanation_code: _Optional[str] = ..., explanation: _Optional[str] = ..., next_events: _Optional[_Iterable[_Union[NextEvent, _Mapping]]] = ..., overdue: bool = ..., forced: bool = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("transaction",)
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    transaction: Transaction
    def __init__(self, transaction: _Optional[_Union[Transaction, _Mapping]] = ...) -> None: ...

class LockReply(_message.Message):
    __slots__ = ("free", "holder")
    FREE_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    free: bool
    holder: str
    def __init__(self, free: bool = ..., holder: _Optional[str] = ...) -> None: ...

class SettledReply(_message.Message):
    __slots__ = ("settlements",)
    SETTLEMENTS_FIELD_NUMBER: _ClassVar[int]
    settlements: _containers.RepeatedScalarFieldContainer[Settlement]
    def __init__(self, settlements: _Optional[_Iterable[_Union[Settlement, str]]] = ...) -> None: ...

class Moved(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "error", "welcome", "decision", "status", "lock", "settled", "branch_ids", "moved", "registered")
    ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    BRANCH_IDS_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    id: int
    error: Error
    welcome: Welcome
    decision: DecisionReply
    status: StatusReply
    lock: LockReply
    settled: SettledReply
    branch_ids: BranchIdBlock
    moved: Moved
    registered: RegisterReply
    def __init__(self, id: _Optional[int] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., decision: _Optional[_Union[DecisionReply, _Mapping]] = ..., status: _Optional[_Union[StatusReply, _Mapping]] = ..., lock: _Optional[_Union[LockReply, _Mapping]] = ..., settled: _Optional[_Union[SettledReply, _Mapping]] = ..., branch_ids: _Optional[_Union[BranchIdBlock, _Mapping]] = ..., moved: _Optional[_Union[Moved, _Mapping]] = ..., registered: _Optional[_Union[RegisterReply, _Mapping]] = ...) -> None: ...

class Commands(_message.Message):
    __slots__ = ("resource", "commit", "xids", "branch_ids", "arguments")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    XIDS_FIELD_NUMBER: _ClassVar[int]
    BRANCH_IDS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    resource: str
    commit: bool
    xids: _containers.RepeatedScalarFieldContainer[str]
    branch_ids: _containers.RepeatedScalarFieldContainer[int]
    arguments: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, resource: _Optional[str] = ..., commit: bool = ..., xids: _Optional[_Iterable[str]] = ..., branch_ids: _Optional[_Iterable[int]] = ..., arguments: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ServerBatch(_message.Message):
    __slots__ = ("epoch", "commit_seq", "events", "ok", "settled", "begun", "begun_xids", "reported", "commands")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SEQ_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    BEGUN_XIDS_FIELD_NUMBER: _ClassVar[int]
    REPORTED_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    commit_seq: int
    events: _containers.RepeatedCompositeFieldContainer[Event]
    ok: _containers.RepeatedScalarFieldContainer[int]
    settled: _containers.RepeatedScalarFieldContainer[int]
    begun: _containers.RepeatedScalarFieldContainer[int]
    begun_xids: _containers.RepeatedScalarFieldContainer[str]
    reported: _containers.RepeatedScalarFieldContainer[int]
    commands: _containers.RepeatedCompositeFieldContainer[Commands]
    def __init__(self, epoch: _Optional[int] = ..., commit_seq: _Optional[int] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., ok: _Optional[_Iterable[int]] = ..., settled: _Optional[_Iterable[int]] = ..., begun: _Optional[_Iterable[int]] = ..., begun_xids: _Optional[_Iterable[str]] = ..., reported: _Optional[_Iterable[int]] = ..., commands: _Optional[_Iterable[_Union[Commands, _Mapping]]] = ...) -> None: ...
