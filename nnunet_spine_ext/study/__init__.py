"""The cross-scanner study: scanners and their components by strategies, sample sizes, gaps."""
