"""A loaded version in a process of its own: a crash, an endless native call or a leak costs that process, and no other.

The parent's side is `process_host` (with `spawning` and `desk`), the child's is `child` (with `serving`); between them a
`line` carries `words`, small ones over a `channel`, payloads and large outputs in the shared memory of `buffers`. Nothing is
imported here, so that a child begins with next to nothing. `thread_host` is the same seam in this process.
"""
