"""Named configurations, a file each: `get_config()` under a docstring of what it is."""
