"""PID 1 and vsockexec: what runs before the agent, in the process that becomes the agent.

Both stay in memory or delay the boot, so their modules import only what the interpreter has loaded
anyway (`os`, `sys`), built-in modules, and each other: no asyncio, msgspec, logging, enum, ctypes.
"""
