"""What the board is doing while it measures: clocks, heat, throttling, power, memory; and holding it still."""
