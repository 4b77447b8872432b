"""What a run has shown, for people and for CI: a page with plots, JUnit, and two runs side by side."""
