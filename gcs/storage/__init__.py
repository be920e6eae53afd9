"""Disks, layers and shares a host hands over (spec chapters 3 and 5)."""
