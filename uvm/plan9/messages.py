"""The messages of 9P2000.L: requests ``T…``, responses ``R…``, by their numbers."""

from typing import ClassVar, Final

from uvm.plan9.codec import U8, U16, U32, U64, Data, Message, QidField, Qids, Text, Texts

VERSION: Final = b"9P2000.L"
UNKNOWN_VERSION: Final = b"unknown"
#: "No fid", where one may be left out.
NO_FID: Final = 0xFFFFFFFF
#: "No user", where one may be left out.
NO_USER: Final = 0xFFFFFFFF
#: What a response to a read has around its data, and a request to write at most (P9_IOHDRSZ).
DATA_OVERHEAD: Final = 24

#: Bits of Tgetattr and Rgetattr: all that stat(2) has.
ATTRIBUTES_BASIC: Final = 0x7FF
#: Bits of Tsetattr.
SET_MODE: Final = 0x001
SET_USER: Final = 0x002
SET_GROUP: Final = 0x004
SET_SIZE: Final = 0x008
SET_ATIME: Final = 0x010
SET_MTIME: Final = 0x020
SET_CTIME: Final = 0x040
#: With these a time comes along; without them it is now.
SET_ATIME_GIVEN: Final = 0x080
SET_MTIME_GIVEN: Final = 0x100

#: Flag of Tunlinkat: a directory is meant.
REMOVE_DIRECTORY: Final = 0x200

LOCK_SHARED: Final = 0
LOCK_EXCLUSIVE: Final = 1
LOCK_NONE: Final = 2
LOCK_SUCCESS: Final = 0
LOCK_BLOCKED: Final = 1


class Rlerror(Message):
    number: ClassVar[int] = 7
    error: U32


class Tstatfs(Message):
    number: ClassVar[int] = 8
    fid: U32


class Rstatfs(Message):
    number: ClassVar[int] = 9
    type: U32
    block_size: U32
    blocks: U64
    free_blocks: U64
    available_blocks: U64
    files: U64
    free_files: U64
    file_system: U64
    longest_name: U32


class Tlopen(Message):
    number: ClassVar[int] = 12
    fid: U32
    flags: U32


class Rlopen(Message):
    number: ClassVar[int] = 13
    qid: QidField
    io_unit: U32


class Tlcreate(Message):
    number: ClassVar[int] = 14
    fid: U32
    name: Text
    flags: U32
    mode: U32
    group: U32


class Rlcreate(Message):
    number: ClassVar[int] = 15
    qid: QidField
    io_unit: U32


class Tsymlink(Message):
    number: ClassVar[int] = 16
    fid: U32
    name: Text
    target: Text
    group: U32


class Rsymlink(Message):
    number: ClassVar[int] = 17
    qid: QidField


class Tmknod(Message):
    number: ClassVar[int] = 18
    fid: U32
    name: Text
    mode: U32
    major: U32
    minor: U32
    group: U32


class Rmknod(Message):
    number: ClassVar[int] = 19
    qid: QidField


class Trename(Message):
    number: ClassVar[int] = 20
    fid: U32
    directory: U32
    name: Text


class Rrename(Message):
    number: ClassVar[int] = 21


class Treadlink(Message):
    number: ClassVar[int] = 22
    fid: U32


class Rreadlink(Message):
    number: ClassVar[int] = 23
    target: Text


class Tgetattr(Message):
    number: ClassVar[int] = 24
    fid: U32
    mask: U64


class Rgetattr(Message):
    number: ClassVar[int] = 25
    valid: U64
    qid: QidField
    mode: U32
    user: U32
    group: U32
    links: U64
    device: U64
    size: U64
    block_size: U64
    blocks: U64
    atime: U64
    atime_nanoseconds: U64
    mtime: U64
    mtime_nanoseconds: U64
    ctime: U64
    ctime_nanoseconds: U64
    btime: U64 = 0
    btime_nanoseconds: U64 = 0
    generation: U64 = 0
    data_version: U64 = 0


class Tsetattr(Message):
    number: ClassVar[int] = 26
    fid: U32
    valid: U32
    mode: U32
    user: U32
    group: U32
    size: U64
    atime: U64
    atime_nanoseconds: U64
    mtime: U64
    mtime_nanoseconds: U64


class Rsetattr(Message):
    number: ClassVar[int] = 27


class Txattrwalk(Message):
    number: ClassVar[int] = 30
    fid: U32
    new_fid: U32
    name: Text


class Rxattrwalk(Message):
    number: ClassVar[int] = 31
    size: U64


class Txattrcreate(Message):
    number: ClassVar[int] = 32
    fid: U32
    name: Text
    size: U64
    flags: U32


class Rxattrcreate(Message):
    number: ClassVar[int] = 33


class Treaddir(Message):
    number: ClassVar[int] = 40
    fid: U32
    offset: U64
    count: U32


class Rreaddir(Message):
    number: ClassVar[int] = 41
    data: Data


class Tfsync(Message):
    number: ClassVar[int] = 50
    fid: U32
    data_only: U32


class Rfsync(Message):
    number: ClassVar[int] = 51


class Tlock(Message):
    number: ClassVar[int] = 52
    fid: U32
    type: U8
    flags: U32
    start: U64
    length: U64
    process: U32
    client: Text


class Rlock(Message):
    number: ClassVar[int] = 53
    status: U8


class Tgetlock(Message):
    number: ClassVar[int] = 54
    fid: U32
    type: U8
    start: U64
    length: U64
    process: U32
    client: Text


class Rgetlock(Message):
    number: ClassVar[int] = 55
    type: U8
    start: U64
    length: U64
    process: U32
    client: Text


class Tlink(Message):
    number: ClassVar[int] = 70
    directory: U32
    fid: U32
    name: Text


class Rlink(Message):
    number: ClassVar[int] = 71


class Tmkdir(Message):
    number: ClassVar[int] = 72
    fid: U32
    name: Text
    mode: U32
    group: U32


class Rmkdir(Message):
    number: ClassVar[int] = 73
    qid: QidField


class Trenameat(Message):
    number: ClassVar[int] = 74
    old_directory: U32
    old_name: Text
    new_directory: U32
    new_name: Text


class Rrenameat(Message):
    number: ClassVar[int] = 75


class Tunlinkat(Message):
    number: ClassVar[int] = 76
    fid: U32
    name: Text
    flags: U32


class Runlinkat(Message):
    number: ClassVar[int] = 77


class Tversion(Message):
    number: ClassVar[int] = 100
    message_size: U32
    version: Text


class Rversion(Message):
    number: ClassVar[int] = 101
    message_size: U32
    version: Text


class Tattach(Message):
    number: ClassVar[int] = 104
    fid: U32
    authentication: U32
    user_name: Text
    share: Text
    user: U32


class Rattach(Message):
    number: ClassVar[int] = 105
    qid: QidField


class Tflush(Message):
    number: ClassVar[int] = 108
    old_tag: U16


class Rflush(Message):
    number: ClassVar[int] = 109


class Twalk(Message):
    number: ClassVar[int] = 110
    fid: U32
    new_fid: U32
    names: Texts


class Rwalk(Message):
    number: ClassVar[int] = 111
    qids: Qids


class Tread(Message):
    number: ClassVar[int] = 116
    fid: U32
    offset: U64
    count: U32


class Rread(Message):
    number: ClassVar[int] = 117
    data: Data


class Twrite(Message):
    number: ClassVar[int] = 118
    fid: U32
    offset: U64
    data: Data


class Rwrite(Message):
    number: ClassVar[int] = 119
    count: U32


class Tclunk(Message):
    number: ClassVar[int] = 120
    fid: U32


class Rclunk(Message):
    number: ClassVar[int] = 121


class Tremove(Message):
    number: ClassVar[int] = 122
    fid: U32


class Rremove(Message):
    number: ClassVar[int] = 123


#: Every message, by its number. Requests are even, and their responses follow them.
MESSAGES: Final[dict[int, type[Message]]] = {
    kind.number: kind for kind in Message.__subclasses__() if kind.number
}
