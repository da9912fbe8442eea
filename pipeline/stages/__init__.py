"""The stages of a recipe; one file each, the file name is the stage name."""
