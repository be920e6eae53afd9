"""What each request does to the files of a share. All of it may block; nothing of it waits.

An operation answers with a response, or raises OSError whose number the guest is told.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from uvm.plan9 import attributes, creation, directories
from uvm.plan9.codec import MOST_NAMES, Message, Qid
from uvm.plan9.fids import Budget, Fid, FidTable
from uvm.plan9.locks import LockTable
from uvm.plan9.messages import (
    DATA_OVERHEAD,
    NO_FID,
    Rattach,
    Rclunk,
    Rfsync,
    Rgetattr,
    Rgetlock,
    Rlcreate,
    Rlink,
    Rlock,
    Rlopen,
    Rmkdir,
    Rmknod,
    Rread,
    Rreaddir,
    Rreadlink,
    Rremove,
    Rrename,
    Rrenameat,
    Rsetattr,
    Rstatfs,
    Rsymlink,
    Runlinkat,
    Rwalk,
    Rwrite,
    Rxattrcreate,
    Rxattrwalk,
    Tattach,
    Tclunk,
    Tfsync,
    Tgetattr,
    Tgetlock,
    Tlcreate,
    Tlink,
    Tlock,
    Tlopen,
    Tmkdir,
    Tmknod,
    Tread,
    Treaddir,
    Treadlink,
    Tremove,
    Trename,
    Trenameat,
    Tsetattr,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Twalk,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)
from uvm.plan9.share import Share, changes, open_flags, open_held

T = TypeVar("T", bound=Message)
_Method = Callable[["Operations", Any], Message]


class _Operation(NamedTuple):
    method: _Method
    writes: bool
    names: bool


_OPERATIONS: Final[dict[type[Message], _Operation]] = {}


def _handles(
    kind: type[T], *, writes: bool = False, names: bool = False
) -> Callable[[Callable[["Operations", T], Message]], Callable[["Operations", T], Message]]:
    """Register the operation of a request.

    Args:
        kind: The request.
        writes: Whether it changes files: it is refused then where the share is read-only.
        names: Whether it changes names in directories, too: refused where one file is shared.
    """

    def register(
        method: Callable[["Operations", T], Message],
    ) -> Callable[["Operations", T], Message]:
        _OPERATIONS[kind] = _Operation(method, writes or names, names)
        return method

    return register


class Operations:
    """The files of one session.

    Args:
        find_share: Returns the share of a name, or None.
        budget: How many fids there may be.
    """

    def __init__(self, find_share: Callable[[bytes], Share | None], budget: Budget) -> None:
        self._find_share = find_share
        self.fids = FidTable(budget)
        self.locks = LockTable()
        #: Longest message, in bytes; of the session.
        self.message_size = 0

    def __call__(self, request: Message) -> Message:
        """Carry a request out.

        Raises:
            OSError: It can't be done; EOPNOTSUPP where nobody can.
        """
        operation = _OPERATIONS.get(type(request))
        if operation is None:
            raise OSError(errno.EOPNOTSUPP, f"{type(request).__name__} is not supported")
        if operation.writes:
            number = getattr(request, type(request).__struct_fields__[0])
            self._check_writable(number, names=operation.names)
        return operation.method(self, request)

    def reset(self) -> None:
        """Give all files up: the guest begins anew."""
        self.fids.clear()
        self.locks.clear()

    def close(self) -> None:
        """Give all files up for good; what is in use is closed when it is not any more."""
        self.fids.clear(for_good=True)
        self.locks.clear()

    @property
    def _io_unit(self) -> int:
        return self.message_size - DATA_OVERHEAD

    def _check_writable(self, number: int, *, names: bool) -> None:
        with self.fids.use(number) as fid:
            _refuse_changes(fid)
            if names or _is_directory_of_file(fid):
                _refuse_other_files(fid)

    # Files of the guest

    @_handles(Tattach)
    def _attach(self, request: Tattach) -> Rattach:
        if request.authentication != NO_FID:
            raise OSError(errno.EOPNOTSUPP, "there is no authentication")
        share = self._find_share(request.share)
        if share is None:
            raise OSError(errno.ENOENT, f"no share {request.share!r}")
        root = os.dup(share.root)
        status = os.fstat(root)
        self.fids.add(request.fid, Fid(share, root, request.user))
        return Rattach(share.qid(status))

    @_handles(Twalk)
    def _walk(self, request: Twalk) -> Rwalk:
        if len(request.names) > MOST_NAMES:
            raise OSError(errno.EINVAL, "too many names")
        with self.fids.use(request.fid) as fid:
            if fid.attribute is not None:
                raise OSError(errno.EINVAL, "an extended attribute leads nowhere")
            held, qids = _follow(fid, list(request.names))
            if held is None:
                return Rwalk(qids)
            found = Fid(fid.share, held, fid.user)
            if request.new_fid == request.fid:
                self.fids.replace(request.fid, fid, found)
            else:
                self.fids.add(request.new_fid, found)
        return Rwalk(qids)

    @_handles(Tclunk)
    def _clunk(self, request: Tclunk) -> Rclunk:
        with self.fids.remove(request.fid) as fid:
            self.locks.forget(fid)
            if fid.attribute is not None and fid.attribute.flags is not None:
                attributes.write_extended(fid.held, fid.attribute)
        return Rclunk()

    @_handles(Tremove)
    def _remove(self, request: Tremove) -> Rremove:
        # The fid is gone even when the file stays.
        with self.fids.remove(request.fid) as fid:
            self.locks.forget(fid)
            _refuse_changes(fid)
            _refuse_other_files(fid)
            directories.remove(fid)
        return Rremove()

    # Content

    @_handles(Tlopen)
    def _open(self, request: Tlopen) -> Rlopen:
        flags = open_flags(request.flags)
        with self.fids.use(request.fid) as fid, fid.lock:
            if changes(flags):
                _refuse_changes(fid)
            if fid.opened is not None or fid.attribute is not None:
                raise OSError(errno.EBADF, "the fid is open already")
            fid.opened = open_held(fid.held, flags)
            return Rlopen(fid.share.qid(os.fstat(fid.opened)), self._io_unit)

    @_handles(Tlcreate, names=True)
    def _create(self, request: Tlcreate) -> Rlcreate:
        with self.fids.use(request.fid) as fid:
            if fid.opened is not None:
                raise OSError(errno.EBADF, "the fid is open already")
            created = creation.create_file(fid, request)
            qid = fid.share.qid(os.fstat(created.held))
            self.fids.replace(request.fid, fid, created)
            return Rlcreate(qid, self._io_unit)

    @_handles(Tread)
    def _read(self, request: Tread) -> Rread:
        count = min(request.count, self._io_unit)
        with self.fids.use(request.fid) as fid:
            if fid.attribute is not None:
                end = request.offset + count
                return Rread(bytes(fid.attribute.value[request.offset : end]))
            return Rread(os.pread(fid.io(), count, request.offset))

    @_handles(Twrite, writes=True)
    def _write(self, request: Twrite) -> Rwrite:
        with self.fids.use(request.fid) as fid:
            if fid.attribute is not None:
                with fid.lock:
                    return Rwrite(attributes.collect(fid.attribute, request))
            return Rwrite(os.pwrite(fid.io(), request.data, request.offset))

    @_handles(Tfsync)
    def _synchronize(self, request: Tfsync) -> Rfsync:
        with self.fids.use(request.fid) as fid:
            (os.fdatasync if request.data_only else os.fsync)(fid.io())
        return Rfsync()

    @_handles(Treaddir)
    def _read_directory(self, request: Treaddir) -> Rreaddir:
        with self.fids.use(request.fid) as fid, fid.lock:
            room = min(request.count, self._io_unit)
            return Rreaddir(directories.read(fid, request.offset, room))

    @_handles(Treadlink)
    def _read_link(self, request: Treadlink) -> Rreadlink:
        with self.fids.use(request.fid) as fid:
            return Rreadlink(os.readlink(b"", dir_fd=fid.held))

    # Attributes

    @_handles(Tgetattr)
    def _get_attributes(self, request: Tgetattr) -> Rgetattr:
        with self.fids.use(request.fid) as fid:
            status = os.fstat(fid.held)
            return attributes.describe(status, fid.share.qid(status), self._io_unit)

    @_handles(Tsetattr, writes=True)
    def _set_attributes(self, request: Tsetattr) -> Rsetattr:
        with self.fids.use(request.fid) as fid:
            attributes.change(fid, request)
        return Rsetattr()

    @_handles(Tstatfs)
    def _describe_file_system(self, request: Tstatfs) -> Rstatfs:
        with self.fids.use(request.fid) as fid:
            return attributes.describe_file_system(os.fstatvfs(fid.held))

    @_handles(Txattrwalk)
    def _find_extended(self, request: Txattrwalk) -> Rxattrwalk:
        with self.fids.use(request.fid) as fid:
            attribute = attributes.read_extended(fid.held, request.name)
            found = Fid(fid.share, os.dup(fid.held), fid.user)
            found.attribute = attribute
            self.fids.add(request.new_fid, found)
        return Rxattrwalk(len(attribute.value))

    @_handles(Txattrcreate, writes=True)
    def _create_extended(self, request: Txattrcreate) -> Rxattrcreate:
        with self.fids.use(request.fid) as fid, fid.lock:
            if fid.opened is not None or fid.attribute is not None:
                raise OSError(errno.EBADF, "the fid is in use already")
            fid.attribute = attributes.new_extended(request)
        return Rxattrcreate()

    @_handles(Tlock)
    def _lock(self, request: Tlock) -> Rlock:
        with self.fids.use(request.fid) as fid:
            answer = self.locks.set(fid, request)
            if fid.given_up:
                self.locks.forget(fid)
            return answer

    @_handles(Tgetlock)
    def _find_lock(self, request: Tgetlock) -> Rgetlock:
        with self.fids.use(request.fid) as fid:
            return self.locks.find(fid, request)

    # Names

    @_handles(Tmkdir, names=True)
    def _make_directory(self, request: Tmkdir) -> Rmkdir:
        with self.fids.use(request.fid) as fid:
            return Rmkdir(creation.make_directory(fid, request))

    @_handles(Tsymlink, names=True)
    def _make_symlink(self, request: Tsymlink) -> Rsymlink:
        with self.fids.use(request.fid) as fid:
            return Rsymlink(creation.make_symlink(fid, request))

    @_handles(Tmknod, names=True)
    def _make_node(self, request: Tmknod) -> Rmknod:
        with self.fids.use(request.fid) as fid:
            return Rmknod(creation.make_node(fid, request))

    @_handles(Tlink, names=True)
    def _link(self, request: Tlink) -> Rlink:
        with self.fids.use(request.directory) as directory, self.fids.use(request.fid) as fid:
            _same_share(directory, fid)
            directories.link(fid, directory, request.name)
        return Rlink()

    @_handles(Trename, names=True)
    def _rename(self, request: Trename) -> Rrename:
        with self.fids.use(request.fid) as fid, self.fids.use(request.directory) as directory:
            _same_share(directory, fid)
            directories.rename(fid, directory, request.name)
        return Rrename()

    @_handles(Trenameat, names=True)
    def _rename_at(self, request: Trenameat) -> Rrenameat:
        with (
            self.fids.use(request.old_directory) as old,
            self.fids.use(request.new_directory) as new,
        ):
            _same_share(old, new)
            directories.rename_at(old, request.old_name, new, request.new_name)
        return Rrenameat()

    @_handles(Tunlinkat, names=True)
    def _unlink_at(self, request: Tunlinkat) -> Runlinkat:
        with self.fids.use(request.fid) as fid:
            directories.unlink_at(fid, request.name, request.flags)
        return Runlinkat()


def _follow(fid: Fid, names: list[bytes]) -> tuple[int | None, list[Qid]]:
    """Walk; the descriptor is None where the way ended early, behind the first name."""
    held = os.dup(fid.held)
    qids: list[Qid] = []
    for name in names:
        try:
            if not stat.S_ISDIR(os.fstat(held).st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            found = fid.share.step(held, name)
        except OSError:
            os.close(held)
            if not qids:
                raise
            return None, qids
        os.close(held)
        held = found
        qids.append(fid.share.qid(os.fstat(held)))
    return held, qids


def _refuse_changes(fid: Fid) -> None:
    if fid.share.read_only:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _is_directory_of_file(fid: Fid) -> bool:
    return fid.share.file is not None and fid.share.is_root(fid.held)


def _refuse_other_files(fid: Fid) -> None:
    if fid.share.file is not None:
        raise OSError(errno.EPERM, "of this directory one file is shared, and nothing else")


def _same_share(one: Fid, other: Fid) -> None:
    if one.share is not other.share:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
