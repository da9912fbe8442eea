"""What each ATen op does to channel ids: one file per family of ops, found by scanning this folder."""
