"""The standard library's module without its second implementation, in Python.

Later versions of Python leave that aside in the same way.
"""

from _datetime import (  # type: ignore[import-not-found]
    MAXYEAR,
    MINYEAR,
    UTC,
    date,
    datetime,
    datetime_CAPI,
    time,
    timedelta,
    timezone,
    tzinfo,
)

__all__ = (
    "MAXYEAR",
    "MINYEAR",
    "UTC",
    "date",
    "datetime",
    "datetime_CAPI",
    "time",
    "timedelta",
    "timezone",
    "tzinfo",
)
