"""What a run writes into its working directory, and reads back from it."""
