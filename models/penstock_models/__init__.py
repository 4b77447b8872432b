"""Bundles, runtimes, steps and servables: everything that turns a payload into an answer."""
