"""A loaded version in a process of its own: a crash, an endless native call or a leak costs that process, and no other.

The parent's side is `process_host` (with `spawning` and `watching`), the child's is `child`; between them a `channel`
carries small messages in the words of `wire`, and `buffers` the payloads and large outputs in shared memory. Nothing is
imported here, so that a child begins with next to nothing. `thread_host` is the same seam in this process.
"""
