"""What-if without hardware: what a scenario would do to a site, from measured profiles of its devices.

`profile` has the devices, `work` what a scenario and a gateway's configuration ask of them. `kernel` (time), `slots`, `host`,
`away` and `simulate` play it through on the product's own scheduler, `figures` say what came out, `search` looks for the
cheapest plan that meets the objectives. `planning` puts the parts together, `words` and `cli` talk, `measuring` runs it here.
"""
