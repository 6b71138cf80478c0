"""The parking lot: who may start now, who waits for how long, and where the results of work wait for their owners."""
