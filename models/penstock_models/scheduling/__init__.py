"""Scheduling: which requests run next, together with which others, and which ones are not worth running any more.

`request` has the records, `fair` decides whose turn it is, `queue` holds what waits for one version, `prediction` says
how long a batch will take, `forming` how large it is, `runs` which version gets a free slot, `batch` and `suspects` take
a failed batch apart, `quarantine` remembers what was guilty; `scheduler` acts. Those are pure but for the scheduler: time
comes in as an argument. `chain` and `shadow` stand between a scheduler and the owner of its requests. What a request
stands for (a frame of a gateway, a call of an inference server) is its owner's business, who subclasses the records.
"""
