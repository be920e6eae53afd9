"""What a container gets to show to whoever verifies the VM (spec 9.6)."""

from __future__ import annotations

import base64
import errno
import os
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import GcsError, InvalidJsonError
from gcs.runtime.bundle import remove_tree
from gcs.runtime.pods.edit import section

if TYPE_CHECKING:
    from gcs.runtime.pods.edit import Edit

#: Name of the environment variable with the directory's path in the container.
VARIABLE: Final = "UVM_SECURITY_CONTEXT_DIR"
_PREFIX: Final = "security-context-"
_CERTIFICATE: Final = "host-amd-cert-base64"
_FILE_MODE: Final = 0o777
_DIRECTORY_MODE: Final = 0o755


class SecurityContext:
    """What there is to show, apart from what a container brings along itself.

    Attributes:
        policy: The security policy in force, encoded as the host sent it; "" for none.
        reference: Signed reference of the VM's image, encoded.
        hash_envelope: The same in the form of a hash envelope, encoded.
        tcb: Reference of the trusted computing base, as it was signed.
        platform: Reference of the platform, as it was signed.
    """

    __slots__ = ("hash_envelope", "platform", "policy", "reference", "tcb")

    def __init__(self) -> None:
        self.policy = ""
        self.reference = ""
        self.hash_envelope = ""
        self.tcb = b""
        self.platform = b""

    def files(self, certificate: str) -> dict[str, str]:
        """Return name → content of the files there are.

        Args:
            certificate: Of the host's processor, encoded; "" for none.
        """
        contents = {
            "security-policy-base64": self.policy,
            "reference-info-base64": self.reference,
            "transparent-reference-info-base64": self.hash_envelope,
            "tcb-reference-info-base64": base64.b64encode(self.tcb).decode(),
            "platform-reference-info-base64": base64.b64encode(self.platform).decode(),
            _CERTIFICATE: certificate,
        }
        return {name: content for name, content in contents.items() if content}


def edit_security_context(edit: Edit) -> None:
    """Put the directory into the container's root, and its path into the environment.

    After anything that may look at the environment: no policy knows of this variable.

    Raises:
        GcsError: The container's root can't be written to.
        OSError: Another reason why a file can't be made.
    """
    if not edit.annotations.security_policy_environment:
        return
    files = edit.guest.security.files(edit.annotations.amd_certificate)
    if not files:
        return
    process = section(edit.document, "process")
    environment = process.get("env")
    if environment is None:
        environment = process["env"] = []
    if not isinstance(environment, list):
        raise InvalidJsonError("OciSpecification: process.env is not a list")
    directory = _make_directory(edit.rootfs)
    edit.undo.callback(remove_tree, directory)
    os.chmod(directory, _DIRECTORY_MODE)
    for name, content in files.items():
        _write(os.path.join(directory, name), content)
    environment.append(f"{VARIABLE}=/{os.path.basename(directory)}")


def _make_directory(rootfs: str) -> str:
    # Not by tempfile, which imports what the image does without.
    path = os.path.join(rootfs, f"{_PREFIX}{os.urandom(8).hex()}")
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise GcsError(
            f"the security context of the container can't be written: {rootfs} is read-only; its "
            "layers need a scratch, or the annotation "
            "io.microsoft.virtualmachine.lcow.securitypolicy.env has to be false"
        ) from error
    return path


def _write(path: str, content: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, _FILE_MODE)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
