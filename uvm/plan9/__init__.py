"""A file server: shares directories of the host with a guest by 9P2000.L, as Linux speaks it.

Source of the protocol: the manual pages of 9P2000 (Plan 9, section 5), diod's description of the
dialect ``.L``, and ``include/net/9p/9p.h`` of Linux.
"""
