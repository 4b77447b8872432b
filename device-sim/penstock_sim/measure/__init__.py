"""What a run measures, and how it is judged: windows, closing, accuracy, objectives."""
