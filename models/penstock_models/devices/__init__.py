"""Devices: on which one a loaded version runs, what happens when it fails there, and what was made for it once.

This package owns giving up a device and coming back to it (`supervision` decides, `supervised` acts), what an engine
that is built for minutes shows meanwhile (`builds`), the folder of optimised models and engines (`cache`), and the
versions that such files depend on (`drivers`). It leaves proving a placement to the runtimes, a version's processes and
threads to the host that it is given, and which versions exist to version management.
"""
