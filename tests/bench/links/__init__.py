"""The `Link` seam filled by other clients, as well as each of them can, so that a bench can run the gateway on all.

They are for measuring: what a client cannot do (see each module) stays undone.
"""
