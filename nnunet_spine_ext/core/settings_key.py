"""Where our settings are in plans, and our facts in dataset.json."""

SETTINGS_KEY = "spine_ext"
