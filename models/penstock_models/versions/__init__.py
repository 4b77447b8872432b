"""The life of a version: which versions are wanted, loaded, labelled, and how they come and go without a ripple.

Sources say what is offered (`source`), a policy which of it is aspired (`policy`, `aspiring`), a pure rule the next step
(`transition`, on the `board`), and the `manager` takes the steps. How a version is loaded and run is its ports' business.
"""
