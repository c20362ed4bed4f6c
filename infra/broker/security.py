"""What a secured Apache Kafka needs: certificates, users with passwords, and an authorizer that refuses by default.

Everything is made anew in the broker's home and stays there, readable by its owner only. The key of the
certificate authority is thrown away as soon as it has signed the broker's certificate. Clients log in with
SCRAM-SHA-512 over TLS; broker and controller know each other by that certificate.
"""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infra.broker.errors import BrokerError

__all__ = [
    "SUPER_USER",
    "USERS",
    "client_config",
    "is_secured",
    "make_credentials",
    "scram_arguments",
    "secure_properties",
]

SUPER_USER: Final = "admin"
USERS: Final = (SUPER_USER, "worker", "producer", "catalog", "reader", "eraser")
"""Users that a secured broker is formatted with; all but the first may do nothing until ACLs allow it."""

_MECHANISM: Final = "SCRAM-SHA-512"
_BROKER_NAME: Final = "CN=headwater-broker"
_CERTIFICATE_DAYS: Final = "3650"
_KEYTOOL_TIMEOUT_S: Final = 60.0
_KEYSTORE_PASSWORD: Final = "keystore"  # noqa: S105 - the name of a file


def is_secured(home: Path) -> bool:
    """Whether the broker of ``home`` was made with users and certificates."""
    return (home / "secrets").is_dir()


def make_credentials(home: Path, java: str) -> None:
    """Make certificates, a password for every user and a settings file for each in ``home``; what is there stays.

    Raises:
        BrokerError: ``home`` holds a broker that was made without them, or keytool failed.
    """
    if is_secured(home):
        return
    if (home / "log").exists():
        raise BrokerError(f"{home} holds a broker that was made without --secure: choose another data directory")
    scratch = home / "secrets.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    for name in (*USERS, _KEYSTORE_PASSWORD):
        _write_private(scratch / name, secrets.token_urlsafe(24))
    _make_certificates(scratch, _keytool(java))
    scratch.rename(home / "secrets")


def secure_properties(home: Path) -> dict[str, str]:
    """Server properties of a broker with the credentials of ``home``."""
    keystore_password = _secret(home, _KEYSTORE_PASSWORD)
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    return {
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": str(home / "secrets" / "broker.p12"),
        "ssl.keystore.password": keystore_password,
        "ssl.key.password": keystore_password,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(home / "secrets" / "ca.pem"),
        "ssl.enabled.protocols": "TLSv1.3,TLSv1.2",
        "listener.security.protocol.map": "CLIENT:SASL_SSL,CONTROLLER:SSL",
        "listener.name.controller.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": _MECHANISM,
        "sasl.mechanism.inter.broker.protocol": _MECHANISM,
        f"listener.name.client.{_MECHANISM.lower()}.sasl.jaas.config": (
            f'{login} username="{SUPER_USER}" password="{_secret(home, SUPER_USER)}";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{SUPER_USER};User:{_BROKER_NAME}",
    }


def scram_arguments(home: Path) -> list[str]:
    """Arguments by which ``StorageTool format`` takes the users over; they hold passwords."""
    return [f"--add-scram={_MECHANISM}=[name={user},password={_secret(home, user)}]" for user in USERS]


def client_config(home: Path, user: str, address: str) -> Path:
    """Write a settings file with which every ``headwater`` command reaches the broker as ``user``; returns it."""
    path = home / "clients" / f"{user}.toml"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fields: Mapping[str, str] = {
        "address": address,
        "security_protocol": "SASL_SSL",
        "tls_ca_file": str(home / "secrets" / "ca.pem"),
        "sasl_mechanism": _MECHANISM,
        "sasl_username": user,
        "sasl_password_file": str(home / "secrets" / user),
    }
    lines = [f"{name} = {_toml(value)}\n" for name, value in fields.items()]
    path.write_text("[broker]\n" + "".join(lines), "utf-8")
    return path


def _make_certificates(directory: Path, keytool: str) -> None:
    """An authority that signs one certificate, in PKCS #12 with its key, and is kept as a certificate only."""
    store = ["-keystore", str(directory / "broker.p12"), "-storepass:file", str(directory / _KEYSTORE_PASSWORD)]
    pair = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", _CERTIFICATE_DAYS, *store]
    pair += ["-storetype", "PKCS12"]
    authority = ["-alias", "ca", "-dname", "CN=headwater development CA"]
    _run(keytool, [*pair, *authority, "-ext", "bc:c=ca:true,pathlen:0", "-ext", "ku:c=keyCertSign"])
    _run(keytool, ["-exportcert", "-rfc", "-alias", "ca", *store, "-file", str(directory / "ca.pem")])
    signed = ["-alias", "broker", "-dname", _BROKER_NAME, "-signer", "ca"]
    signed += ["-ext", "san=ip:127.0.0.1,dns:localhost", "-ext", "eku=serverAuth,clientAuth"]
    _run(keytool, [*pair, *signed])
    _run(keytool, ["-delete", "-alias", "ca", *store])
    (directory / "broker.p12").chmod(0o600)


def _run(keytool: str, arguments: list[str]) -> None:
    try:
        done = subprocess.run(
            [keytool, *arguments], capture_output=True, text=True, timeout=_KEYTOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerError(f"{keytool} does not run ({error}): it makes the certificates of --secure") from None
    if done.returncode:
        said = re.sub(r"\s+", " ", done.stdout + done.stderr).strip()
        raise BrokerError(f"{keytool} could not make the certificates: {said[:300]}")


def _keytool(java: str) -> str:
    """Every Java has one beside it, behind whatever links lead there."""
    beside = Path(os.path.realpath(java)).with_name("keytool")
    found = str(beside) if beside.exists() else shutil.which("keytool")
    if found is None:
        raise BrokerError(f"--secure needs keytool, which comes with Java, and there is none beside {java}")
    return found


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "ascii")


def _secret(home: Path, name: str) -> str:
    return (home / "secrets" / name).read_text("ascii")


def _toml(text: str) -> str:
    """A basic string of TOML."""
    return '"' + "".join(f"\\u{ord(c):04x}" if c in '"\\' or ord(c) < 32 else c for c in text) + '"'
