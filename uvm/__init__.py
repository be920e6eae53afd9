"""The host tool: boots the image under QEMU and drives the agent in it."""
