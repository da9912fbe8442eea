"""Build, open and time what ships. Runs on the device too: numpy and the target's own runtime, no more."""
