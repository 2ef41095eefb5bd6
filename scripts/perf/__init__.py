"""Performance reports: measuring, checking, drawing. Python's standard library only."""
