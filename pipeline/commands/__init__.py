"""The verbs of the command line; one file each, the file name is the verb. Imports inside functions only."""
