"""What a process that is run in a container takes over from it (spec 4.10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gcs.runtime.pods.edit import items, section
from gcs.runtime.pods.limits import merge_rlimits
from gcs.runtime.pods.users import look_up_user

if TYPE_CHECKING:
    from gcs.protocol.oci import Process


class ProcessDefaults(msgspec.Struct, frozen=True):
    """What processes of a container get that don't say otherwise.

    Attributes:
        rootfs: Absolute path of the container's root file system.
        rlimits: Limits of its init.
        user: The user of its init, when the host gave it by name; else ``None``.
    """

    rootfs: str
    rlimits: list[dict[str, Any]]
    user: dict[str, Any] | None

    @classmethod
    def of(cls, document: dict[str, Any], rootfs: str) -> ProcessDefaults:
        """Return those of a container, from its edited specification."""
        user = section(document, "process", "user")
        named = {key: value for key, value in user.items() if key != "username"}
        return cls(
            rootfs,
            list(items(document, "process", "rlimits")),
            named if user.get("username") else None,
        )

    def apply(self, document: dict[str, Any], process: Process) -> None:
        """Complete an OCI process; blocking.

        A user name is looked up.  A process without one that is root gets the container's user,
        when that was given by name: hosts copy the container's process, in which the ids are not
        known.  Limits of its own stay, those of the container are added.

        Args:
            document: The process; changed in place.
            process: The typed view of it.

        Raises:
            GcsError: Unknown user or group, or the container's files can't be read.
        """
        given = process.user
        if given.username:
            found = look_up_user(self.rootfs, given.username)
            user = section(document, "user")
            user.pop("username")
            user["uid"], user["gid"] = found.uid, found.gid
            gids = list(dict.fromkeys((*given.additional_gids, *found.additional_gids)))
            if gids:
                user["additionalGids"] = gids
        elif self.user is not None and not given.uid and not given.gid:
            section(document, "user").update(self.user)
        if self.rlimits:
            document["rlimits"] = merge_rlimits(items(document, "rlimits"), self.rlimits)
