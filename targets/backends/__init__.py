"""One compiler and runtime per file, named as the target. Shared parts begin with an underscore."""
