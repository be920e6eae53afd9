"""Containers and processes of the VM, and the OCI runtime that runs them (spec chapter 4)."""
