"""Vetting: a foreign model is first loaded in a limited child process, and measured there.

`vet` is the way in; `attempt` is one child, which `listening` hears; `verdict` is what both sides say to each other, and
`cache` remembers verdicts. In the child, `confine` takes rights and resources away, `examine` loads and runs the model,
`footprint` measures it. What a model file may hold is `safety`'s, loading and golden answers are the servable's.
"""
