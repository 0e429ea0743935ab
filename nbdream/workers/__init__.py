"""The processes that hold torch: one folder a run, files in and files out. The kernel's half imports no torch."""
