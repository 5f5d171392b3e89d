"""Test-time training: a network learns a little from the case it is about to predict, and forgets it afterwards."""
