"""Scheduling: which requests run next, together with which others, and which ones are not worth running any more.

`request` has the records, `fair` decides whose turn it is, `queue` holds what waits for one version, `prediction` says
how long a batch will take, `forming` how large it is, `choice` which version gets a free slot, `suspects` takes a failed
batch apart, `quarantine` remembers what was guilty; `scheduler` acts. Everything but the scheduler is pure: time comes
in as an argument. What a request is an answer to (a frame of a gateway, a call of an inference server) is its owner's
business, who subclasses the records.
"""
