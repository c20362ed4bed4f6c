"""What a principal needs on a broker with an authorizer: allowing it, and seeing what is not allowed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kafka import admin as kafka_admin

from streams.acls import Grant, Role, grants
from streams.clients.errors import ClientError
from streams.clients.kafka import Admin, GroupRefusedError, KafkaError, admin
from streams.reach import identity
from streams.settings import BrokerSettings, Settings

__all__ = ["allow", "missing", "require"]

# kafka-python ships no types.
_kafka: Final[Any] = kafka_admin


def allow(broker: BrokerSettings, principal: str, grants: Sequence[Grant]) -> None:
    """Add the ACLs; those that are there already stay.

    Raises:
        ClientError: the broker does not answer, has no authorizer, or does not let this user change ACLs.
    """
    acls = [
        _kafka.ACL(
            principal=principal,
            host="*",
            operation=_kafka.ACLOperation[grant.operation.upper()],
            permission_type=_kafka.ACLPermissionType.ALLOW,
            resource_pattern=_kafka.ResourcePattern(
                _kafka.ResourceType[grant.resource.upper()], grant.name, _pattern_type(grant)
            ),
        )
        for grant in grants
    ]
    try:
        with admin(broker) as client:
            failed = client.create_acls(acls)["failed"]
    except KafkaError as error:
        raise _refused(error) from error
    if failed:
        raise _refused(failed[0]())


def _pattern_type(grant: Grant) -> Any:
    prefixed = grant.resource == "transactional_id"
    return _kafka.ACLResourcePatternType.PREFIXED if prefixed else _kafka.ACLResourcePatternType.LITERAL


def _refused(error: Exception) -> ClientError:
    return ClientError(
        f"the broker did not take the ACLs ({type(error).__name__});"
        " it needs an authorizer (authorizer.class.name), and this user the right to alter the cluster"
    )


def missing(settings: Settings, role: Role) -> list[Grant]:
    """What ``role`` needs and this user is not allowed; a topic that does not exist is not allowed either.

    Of transactional ids no broker tells; the worker's first transaction does.

    Raises:
        ClientError: the broker does not answer.
    """
    group = settings.worker.app_id
    with admin(settings.broker) as client:
        allowed = {("topic", topic["name"]): topic.get("authorized_operations") for topic in client.describe_topics()}
        if role == "worker":
            allowed["group", group] = _group_operations(client, group)
    return [
        grant
        for grant in grants(settings, role)
        if grant.resource != "transactional_id"
        and grant.operation.upper() not in (allowed.get((grant.resource, grant.name)) or ())
    ]


def require(settings: Settings, role: Role) -> None:
    """Where the broker knows who asks: refuse to begin what it would refuse half-way.

    Raises:
        ClientError: something is not allowed; the message says what, and what to do.
    """
    if settings.broker.security_protocol == "PLAINTEXT":
        return
    refused = missing(settings, role)
    if refused:
        what = ", ".join(f"{grant.operation} {grant.resource} {grant.name}" for grant in refused)
        raise ClientError(
            f"{identity(settings.broker)} is not allowed to: {what}; create topics that do not exist"
            f" (`headwater topics create`) and allow the rest (`headwater topics acls {role} --apply`)"
        )


def _group_operations(client: Admin, group: str) -> Any:
    try:
        described = client.describe_groups([group], include_authorized_operations=True)[group]
    except GroupRefusedError:
        return None
    except KafkaError:
        described: Mapping[str, Any] = {}
    # Of a group that has never been, or whose coordinator moves, nothing is told but that we may ask.
    return described.get("authorized_operations") or ["READ"]
