"""Who runs the phases of many runs, and in which order: `serial` (this process) or `ray` (many machines).

Both offer `run_all(specs, store_root, data_root, progress) -> Summary`, and both do only what the
store lacks.
"""
