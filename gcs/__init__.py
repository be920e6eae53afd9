"""Guest Compute Service: the Linux guest agent of a Hyper-V utility VM."""

__version__ = "0.1.0"
