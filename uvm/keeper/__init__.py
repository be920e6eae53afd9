"""VMs that stay: a process in the background that owns one, and how to speak to it."""
